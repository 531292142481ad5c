"""What is known of a pseudo-label, as numbers that are higher where it is likelier right.

Owns which evidence there is: what each view said and how surely, how the votes lie, the share in the consensus, which
examples are near, and what the probe holds of the answer. Does not weigh it (labelling.learned). Pure. Invariant: of
pseudo-labels that were made by the same settings the same kinds are known, whatever each says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semievol.config.method import LabellingConfig
from semievol.labelling import confidence
from semievol.labelling.logistic import Floats
from semievol.labelling.probe import Probe
from semievol.protocols import Vectors
from semievol.types import CandidateAnswer, Example, PseudoLabel

NEAREST = 10
"""So many examples near a query have a say, each by the eighth power of its cosine, as in the consensus."""
POWER = 8.0
_BLOCK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What lies near the questions of pseudo-labels; one row each, one column an answer.

    answers: of the columns. shares: of the nearest examples' say; closest: the cosine of the nearest example with the
    answer, -1 where there is none; chances: the probe's probabilities.
    """

    answers: tuple[str, ...]
    shares: Floats
    closest: Floats
    chances: Floats


def surroundings(vectors: Vectors, examples: Sequence[Example], example_vectors: Vectors, probe: Probe) -> Surroundings:
    """What lies near questions with these vectors.

    Args:
        vectors: of the questions, unit length, shape (questions, dimensions).
        examples: at least one, none of which asks one of the questions.
        example_vectors: theirs.
        probe: its answers are the columns; an example with another one has no say.
    """
    column = {answer: place for place, answer in enumerate(probe.answers)}
    known = [place for place, example in enumerate(examples) if example.answer in column]
    columns = np.array([column[examples[place].answer] for place in known], dtype=np.int64)
    shares = np.zeros((len(vectors), len(column)))
    closest = np.full((len(vectors), len(column)), -1.0)
    count = min(NEAREST, len(known))
    for start in range(0, len(vectors), _BLOCK_ROWS):
        similar = vectors[start : start + _BLOCK_ROWS].astype(np.float64) @ example_vectors[known].T
        rows = np.arange(len(similar))
        nearest = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        for place in range(count):
            said = np.maximum(similar[rows, nearest[:, place]], 0.0) ** POWER
            shares[start + rows, columns[nearest[:, place]]] += said
        for place, at in enumerate(columns):
            inside = closest[start : start + len(similar), at]
            np.maximum(inside, similar[:, place], out=inside)
    whole = shares.sum(axis=1, keepdims=True)
    shares = np.divide(shares, whole, out=np.zeros_like(shares), where=whole > 0)
    return Surroundings(probe.answers, shares, closest, probe.probabilities(vectors))


def evidence(
    labels: Sequence[PseudoLabel], config: LabellingConfig, near: Surroundings | None
) -> tuple[tuple[str, ...], Floats]:
    """(names of the kinds, shape (len(labels), kinds)).

    Args:
        labels: after they have listened to each other; one without an answer has evidence that means nothing.
        config: the configurations that answered.
        near: of the labels, in their order; None: nothing is known but what the model said.
    """
    names = [f"{each.name}: {what}" for each in config.configurations for what in ("share", "certainty")]
    names += ["margin", "votes", "semantic entropy", "certainty", "nearest example"]
    if config.consensus is not None:
        names.append("consensus")
    if near is not None:
        names += ["near share", "near distance", "probe", "probe margin"]
    column = {} if near is None else {answer: place for place, answer in enumerate(near.answers)}
    rows = np.zeros((len(labels), len(names)))
    for row, label in enumerate(labels):
        found = _own(label, config)
        if config.consensus is not None:
            found.append(_log_odds(label.consensus or 0.0))
        if near is not None:
            found += _near(near, row, column.get(label.answer or ""))
        rows[row] = found
    return tuple(names), rows


def _own(label: PseudoLabel, config: LabellingConfig) -> list[float]:
    found: list[float] = []
    for each in config.configurations:
        said = [candidate for candidate in label.candidates if candidate.configuration == each.name]
        for_it = [candidate for candidate in said if candidate.answer == label.answer]
        found.append(sum(_likelihood(candidate) for candidate in for_it) / max(1, len(said)))
        found.append(sum(_certainty(candidate, label.answer) for candidate in said) / max(1, len(said)))
    answers = [candidate.answer for candidate in label.candidates]
    entropies = [candidate.entropy for candidate in label.candidates]
    spread = confidence.semantic_entropy(answers, entropies)
    found.append(confidence.margin(answers, label.answer))
    found.append(confidence.weighted_votes(answers, entropies, label.answer))
    found.append(-spread if math.isfinite(spread) else -math.log(max(2, len(answers))))
    found.append(confidence.certainty(label.entropy))
    found.append(max((similarity for _, similarity in label.neighbours), default=0.0))
    return found


def _near(near: Surroundings, row: int, column: int | None) -> list[float]:
    """An answer that no example has is as far from all as can be."""
    shares, closest, chances = near.shares[row], near.closest[row], near.chances[row]
    if column is None:
        return [0.0, -1.0 - float(closest.max()), _log_odds(0.0), math.log(1e-4)]
    others = np.delete(np.arange(len(near.answers)), column)
    nearest_other = float(closest[others].max(initial=-1.0))
    best_other = float(chances[others].max(initial=1e-4))
    own = float(chances[column])
    return [
        float(shares[column]),
        float(closest[column]) - nearest_other,
        _log_odds(own),
        math.log(max(own, 1e-4)) - math.log(max(best_other, 1e-4)),
    ]


def _likelihood(candidate: CandidateAnswer) -> float:
    return confidence.confidence(candidate.entropy, 1.0)


def _certainty(candidate: CandidateAnswer, answer: str | None) -> float:
    """For the answer, or against it; what did not parse says nothing."""
    if candidate.answer is None:
        return 0.0
    nats = confidence.certainty(candidate.entropy)
    return nats if candidate.answer == answer else -nats


def _log_odds(share: float) -> float:
    kept = min(max(share, 1e-4), 1.0 - 1e-4)
    return math.log(kept) - math.log1p(-kept)
