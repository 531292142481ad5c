"""The probe: what the vectors of the questions alone say about their answers, without any language model.

A logistic regression on the examples' vectors; how much it is held back is chosen by cross-validation on the examples
alone. It is a row of `semievol compare`, so that a reader sees what the language model adds, a view beside the
language model's own (`labelling.probe`), and evidence for the learned confidence. Owns all three but the row.
Invariants: a fold's probe never saw the fold's answers; the same examples in the same order give the same probe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from semievol.config.labelling import ProbeConfig
from semievol.examples.split import asked_key
from semievol.labelling import confidence
from semievol.labelling.logistic import Floats, Softmax, softmax_regression
from semievol.protocols import Vectors
from semievol.types import CandidateAnswer, Example, PseudoLabel

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""From these the penalty is chosen: unit vectors want 0.1 (3 answers of 150 examples) to 0.003 (150 answers of 5)."""
FOLDS = 5
_OPENBLAS = ThreadpoolController().select(internal_api="openblas")
"""numpy's own. The products are small: with a second thread the fit takes over ten times the processor's time."""
NAME = "probe"
"""What its candidate's configuration is called."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A model of the answers that some examples have."""

    answers: tuple[str, ...]
    model: Softmax

    def probabilities(self, vectors: Vectors) -> Floats:
        """Of each of `answers`, shape (len(vectors), len(answers))."""
        return self.model.probabilities(vectors)


@dataclass(frozen=True, slots=True)
class FittedProbe:
    """The probe of all examples, and what chose it.

    penalty: the chosen one. by_fold: for each fold the probe of the other examples. log_loss: out of fold, nats an
    example, a class that the others lack counting as rare. accuracy: out of fold.
    """

    whole: Probe
    penalty: float
    by_fold: tuple[Probe, ...]
    log_loss: float
    accuracy: float


def folds_of(examples: Sequence[Example], count: int = FOLDS, salt: str = "") -> NDArray[np.int64]:
    """The fold of each example, in [0, count): those that ask the same share one, and each answer is spread over all.

    By the hash of what is asked, so that neither ids nor the order of a file has a say; with fewer questions than
    `count` some folds are empty. Another `salt` divides them otherwise.
    """
    asked = [asked_key(example.query) for example in examples]
    first: dict[str, str] = {}
    for key, example in zip(asked, examples, strict=True):
        first.setdefault(key, example.answer)
    # One answer after the other, dealt out like cards: each fold gets its share of all and of each.
    purpose = f"fold{salt}"
    dealt = sorted(first, key=lambda each: (first[each], hashlib.blake2b(f"{purpose}\x1f{each}".encode()).digest()))
    of = {key: place % count for place, key in enumerate(dealt)}
    return np.array([of[key] for key in asked], dtype=np.int64)


def fitted(vectors: Vectors, examples: Sequence[Example], folds: NDArray[np.int64] | None = None) -> FittedProbe:
    """The probe that tells the examples' answers best out of fold.

    Args:
        vectors: of the examples' questions, shape (len(examples), dimensions), at least one.
        examples: the labelled ones.
        folds: of each; None: `folds_of`.
    """
    with _OPENBLAS.limit(limits=1):
        return _fitted(vectors, examples, folds_of(examples) if folds is None else folds)


def _fitted(vectors: Vectors, examples: Sequence[Example], folds: NDArray[np.int64]) -> FittedProbe:
    answers = tuple(sorted({example.answer for example in examples}))
    column = {answer: place for place, answer in enumerate(answers)}
    classes = np.array([column[example.answer] for example in examples], dtype=np.int64)
    count = int(folds.max(initial=0)) + 1
    models: list[list[Softmax]] = [[] for _ in PENALTIES]
    missed = np.zeros((len(PENALTIES), len(examples)))
    right = np.zeros((len(PENALTIES), len(examples)), dtype=bool)
    for fold in range(count):
        inside = folds == fold
        model: Softmax | None = None
        for place, penalty in enumerate(PENALTIES):
            if inside.all():
                model = _ignorant(vectors.shape[1], len(answers))
            else:
                model = softmax_regression(vectors[~inside], classes[~inside], len(answers), penalty, model)
            models[place].append(model)
            if inside.any():
                chances = model.probabilities(vectors[inside])
                own = chances[np.arange(len(chances)), classes[inside]]
                missed[place, inside] = -np.log(np.maximum(own, 1e-6))
                right[place, inside] = chances.argmax(axis=1) == classes[inside]
    best = int(missed.mean(axis=1).argmin())
    whole = softmax_regression(vectors, classes, len(answers), PENALTIES[best])
    return FittedProbe(
        Probe(answers, whole),
        PENALTIES[best],
        tuple(Probe(answers, model) for model in models[best]),
        float(missed[best].mean()),
        float(right[best].mean()),
    )


def _ignorant(width: int, count: int) -> Softmax:
    return Softmax(np.zeros((width, count)), np.zeros(count))


# --- as a view ------------------------------------------------------------------------------------------------------


def with_probe(
    labels: Sequence[PseudoLabel],
    vectors: Vectors,
    probe: Probe,
    config: ProbeConfig,
    weights: dict[str, float] | None = None,
) -> list[PseudoLabel]:
    """The pseudo-labels with the probe's answer among their candidates, and the answer that all of these give.

    A candidate counts by its likelihood per token and the weight of its configuration (`weights`, by name; else 1); the
    probe by its probability and its own. What the model did not answer stays without an answer.
    """
    if not labels:
        return []
    known = {**(weights or {}), NAME: config.weight}
    return [_heard(label, said, known) for label, said in zip(labels, probe_candidates(probe, vectors), strict=True)]


def probe_candidates(probe: Probe, vectors: Vectors) -> list[CandidateAnswer]:
    """The answer that the probe gives to each question, with the probability that it gives it as entropy."""
    chances = probe.probabilities(vectors)
    best = [probe.answers[place] for place in chances.argmax(axis=1)]
    entropies = np.maximum(0.0, -np.log(np.maximum(chances.max(axis=1), 1e-300)))
    return [CandidateAnswer(NAME, said, said, float(nats)) for said, nats in zip(best, entropies, strict=True)]


def _heard(label: PseudoLabel, said: CandidateAnswer, weights: dict[str, float]) -> PseudoLabel:
    candidates = (*label.candidates, said)
    if label.answer is None:
        return replace(label, candidates=candidates)
    votes: dict[str, float] = {}
    for each in candidates:
        if each.answer is not None:
            weight = weights.get(each.configuration, 1.0) * confidence.confidence(each.entropy, 1.0)
            votes[each.answer] = votes.get(each.answer, 0.0) + weight
    # A draw is the model's.
    answer = max(sorted(votes), key=lambda each: (votes[each], each == label.answer))
    return answered(label, answer, candidates)


def answered(label: PseudoLabel, answer: str, candidates: tuple[CandidateAnswer, ...]) -> PseudoLabel:
    """The pseudo-label with an answer that some of these candidates gave, and as sure as they make it."""
    entropy = confidence.mean_entropy([each.entropy for each in candidates if each.answer == answer])
    agreement = confidence.agreement([each.answer for each in candidates], answer)
    return replace(
        label,
        answer=answer,
        candidates=candidates,
        entropy=entropy,
        agreement=agreement,
        confidence=confidence.confidence(entropy, agreement),
        justified=label.justified and answer == label.answer,
    )
