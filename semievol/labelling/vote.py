"""The vote: answers of several views, weighted by what each is worth on examples that it had not seen.

Views that were taught alike are one group, which speaks with one voice: what one of them gets wrong the others likely
get wrong too. A group's word for an answer is the share of its candidates that gave it, and how certain they were; the
probe's is the logarithm of its probability. The weights are those under which the truth is likeliest (a conditional
logit: McFadden, 1974). Owns the words, the weights and what the vote makes of a pseudo-label. Pure. Invariants: no
weight is negative; the same answers in the same order give the same weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semievol.labelling import confidence
from semievol.labelling.logistic import Floats, log_sum, minimised
from semievol.labelling.probe import NAME as PROBE
from semievol.labelling.probe import Probe, answered, probe_candidates
from semievol.protocols import Vectors
from semievol.types import PseudoLabel

PENALTY = 0.3
"""Of half the squared weights. With a hundred answers it hardly counts; with one kind of them, it keeps weights finite.
"""
_LEAST_CHANCE = 1e-4

Groups = Mapping[str, Collection[str]]
"""The configurations of each group, by its name."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What each kind of word is worth.

    labels: examples of known truth that it was learned from; right: the share of them that the vote has right, each by
    weights of the other folds; log_loss: nats an answer, the same way. alone: the share that each group has right.
    """

    kinds: tuple[str, ...]
    weights: Floats
    labels: int
    right: float
    log_loss: float
    alone: Mapping[str, float]

    def chances(self, words: Floats) -> Floats:
        """Of each answer, shape (rows, answers), from words of shape (rows, answers, kinds)."""
        scores = words @ self.weights
        found: Floats = np.exp(scores - log_sum(scores))
        return found

    def to_json(self) -> dict[str, Any]:
        weights = dict(zip(self.kinds, self.weights.tolist(), strict=True))
        return {**asdict(self), "kinds": list(self.kinds), "weights": weights, "alone": dict(self.alone)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Vote:
        """Raises KeyError, TypeError or ValueError where it is none."""
        kinds = tuple(values["kinds"])
        weights = np.array([values["weights"][kind] for kind in kinds], dtype=np.float64)
        return cls(**{**values, "kinds": kinds, "weights": weights})


def words_of(
    labels: Sequence[PseudoLabel],
    groups: Groups,
    answers: Sequence[str],
    probe: Probe | None = None,
    vectors: Vectors | None = None,
) -> tuple[tuple[str, ...], Floats]:
    """(names of the kinds, shape (len(labels), len(answers), kinds)).

    Args:
        labels: with the candidates of their configurations.
        groups: whose candidates speak together; a group without any says nothing.
        answers: all that may be given, the probe's among them.
        probe: speaks too, where it is given.
        vectors: of the labels' questions, for the probe.
    """
    kinds = [f"{group}: {what}" for group in groups for what in ("share", "certainty")]
    column = {answer: place for place, answer in enumerate(answers)}
    found = np.zeros((len(labels), len(answers), len(kinds) + (probe is not None)))
    for row, label in enumerate(labels):
        for place, members in enumerate(groups.values()):
            said = [candidate for candidate in label.candidates if candidate.configuration in members]
            for candidate in said:
                if candidate.answer in column:
                    at = found[row, column[candidate.answer]]
                    at[2 * place] += 1.0 / len(said)
                    at[2 * place + 1] += confidence.certainty(candidate.entropy) / len(said)
    if probe is not None:
        kinds.append(PROBE)
        found[:, :, -1] = np.log(_LEAST_CHANCE)
        if labels and vectors is not None:
            chances = np.maximum(probe.probabilities(vectors), _LEAST_CHANCE)
            for place, answer in enumerate(probe.answers):
                found[:, column[answer], -1] = np.log(chances[:, place])
    return tuple(kinds), found


def learned_vote(
    kinds: Sequence[str], words: Floats, truth: NDArray[np.int64], folds: NDArray[np.int64], times: int = 1
) -> Vote:
    """The weights under which the truth is likeliest.

    Args:
        kinds: names of the words.
        words: shape (rows, answers, kinds), at least one row; none of what spoke knew the truth.
        truth: the column of each row's right answer.
        folds: of each row, to say what the vote is worth on rows that its weights had not seen; all rows of one
            example share theirs.
        times: so many rows there are of each example, which count as one together.
    """
    rows = np.arange(len(truth))
    chances = np.zeros(words.shape[:2])
    for fold in np.unique(folds):
        inside = folds == fold
        others = ~inside if not inside.all() else inside
        scores = words[inside] @ _weights(words[others], truth[others], times)
        chances[inside] = np.exp(scores - log_sum(scores))
    own = chances[rows, truth]
    alone = {}
    for place, kind in enumerate(kinds):
        if kind == PROBE or kind.endswith(": share"):
            # A draw, as where nothing was said, is not right.
            heard = words[:, :, place].argmax(axis=1) == truth
            heard &= words[rows, truth, place] > words[:, :, place].min(axis=1)
            alone[kind.removesuffix(": share")] = float(heard.mean())
    return Vote(
        tuple(kinds),
        _weights(words, truth, times),
        round(len(truth) / times),
        float((chances.argmax(axis=1) == truth).mean()),
        float(-np.log(np.maximum(own, 1e-12)).mean()),
        alone,
    )


def _weights(words: Floats, truth: NDArray[np.int64], times: int) -> Floats:
    """What a negative weight would be given to is left out, one kind after the other, the most negative first."""
    found = np.zeros(words.shape[2])
    kept = np.ones(words.shape[2], dtype=bool)
    while kept.any():
        weights = _unbounded(words[:, :, kept], truth, PENALTY * times)
        if (weights >= 0.0).all():
            found[kept] = weights
            break
        kept[np.flatnonzero(kept)[int(weights.argmin())]] = False
    return found


def _unbounded(words: Floats, truth: NDArray[np.int64], penalty: float) -> Floats:
    rows = np.arange(len(truth))
    number = len(truth)
    right = words[rows, truth]  # shape (rows, kinds)

    def loss(point: Floats) -> tuple[float, Floats]:
        scores = words @ point
        logs = scores - log_sum(scores)
        expected = np.einsum("ra,rak->k", np.exp(logs), words)
        value = -float(logs[rows, truth].sum()) + 0.5 * penalty * float(point @ point)
        return value / number, (expected - right.sum(axis=0) + penalty * point) / number

    return minimised(loss, np.zeros(words.shape[2]), tolerance=1e-7)


def voted(
    labels: Sequence[PseudoLabel],
    chances: Floats,
    answers: Sequence[str],
    probe: Probe | None = None,
    vectors: Vectors | None = None,
) -> list[PseudoLabel]:
    """The pseudo-labels with the vote's answers, and in `right` the probability that it gives them.

    The probe's own answer joins the candidates. What none of the language model's views answered stays without an
    answer; a draw is the one's that labelled.

    Args:
        labels: as the views made them.
        chances: of the answers, shape (len(labels), len(answers)).
        answers: of the columns.
        probe: spoke too; None: did not.
        vectors: of the labels' questions, for the probe.
    """
    if not labels:
        return []
    column = {answer: place for place, answer in enumerate(answers)}
    heard = [None] * len(labels) if probe is None or vectors is None else probe_candidates(probe, vectors)
    found = []
    for label, row, said in zip(labels, chances, heard, strict=True):
        candidates = label.candidates if said is None else (*label.candidates, said)
        if label.answer is None:
            found.append(replace(label, candidates=candidates, right=0.0))
            continue
        best = int(row.argmax())
        if label.answer in column and row[column[label.answer]] >= row[best]:
            best = column[label.answer]
        found.append(replace(answered(label, answers[best], candidates), right=float(row[best])))
    return found


def told(vote: Vote, labels: Sequence[PseudoLabel], kept: Collection[str]) -> dict[str, Any]:
    """What the vote says of pseudo-labels, as JSON: how many are right by it, of all and of the `kept` ids."""
    chances = {label.query.id: label.right for label in labels if label.right is not None}
    kept = frozenset(kept)
    selected = [chance for key, chance in chances.items() if key in kept]
    return {
        **vote.to_json(),
        "estimated_accuracy": sum(chances.values()) / len(chances) if chances else None,
        "estimated_selected_accuracy": sum(selected) / len(selected) if selected else None,
    }
