"""Consensus: pseudo-labels corrected by what was answered to the queries and examples near them.

The model answers each query alone; queries that lie close together mostly have the same answer. Two ways to hear them:

- centres: a mixture with one von Mises-Fisher component an answer (after Banerjee et al., 2005, Clustering on the unit
  hypersphere; here one fixed concentration and equal proportions), seeded with the examples, whose answers stay (Basu
  et al., 2002). The words of a query (see words) and the model's own answers count as further evidence of it. Every
  query helps to place the centres and to learn the words, which is what a few examples cannot.
- spreading: label spreading over the graph of nearest neighbours (after Zhou et al., 2004, Learning with local and
  global consistency; here the weights of a row add up to one, and the examples' labels are clamped, as in label
  propagation). For answers whose queries lie in several places.

Owns both; vectors come from the embedder, what is kept is selection's. Invariants: examples keep their answers; what
did not parse stays without an answer; the result depends on the set of labels alone, not on batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from semievol.config.method import ConsensusConfig
from semievol.labelling import confidence
from semievol.labelling.words import Words
from semievol.protocols import Vectors
from semievol.types import Example, PseudoLabel

_BLOCK_ROWS = 1024
_TOGETHER = 2.0
"""Where words count too, all evidence is divided by this at the end: much of it is said twice."""
_LEAST_MASS = 0.5
"""What an answer without an example must have been given in all, in sure answers, to get a centre."""


def agree(
    labels: Sequence[PseudoLabel],
    vectors: Vectors,
    examples: Sequence[Example],
    example_vectors: Vectors,
    config: ConsensusConfig,
    weights: Mapping[str, float] | None = None,
) -> list[PseudoLabel]:
    """The pseudo-labels with the answers of the consensus and `consensus`, the share that their answer has in it.

    An answer may change to one that was given near the query only; its agreement is then 0, and its entropy that of all
    the query's candidates. Spreading takes time in the square of the number of queries (4,500: about a second), centres
    in queries times answers; either needs about five arrays of that size, in float64, and words two of up to 50,000
    times answers.

    Args:
        labels: of one task with a closed set of answers.
        vectors: their queries', unit length, shape (len(labels), dimensions).
        examples: the labelled ones.
        example_vectors: theirs, shape (len(examples), dimensions).
        config: method and its numbers.
        weights: how much the candidates of a configuration count, by its name; 1 where it is not named.
    """
    if not labels:
        return []
    names = sorted(
        {candidate.answer for label in labels for candidate in label.candidates if candidate.answer is not None}
        | {example.answer for example in examples}
    )
    if not names:
        return list(labels)
    column = {name: place for place, name in enumerate(names)}
    own = np.zeros((len(labels) + len(examples), len(names)), dtype=np.float64)
    for row, label in enumerate(labels):
        own[row] = _own_votes(label, column, weights or {})
    for row, example in enumerate(examples, start=len(labels)):
        own[row, column[example.answer]] = 1.0
    every = np.concatenate([vectors, example_vectors]) if len(examples) else vectors
    if config.method == "centres":
        texts = [label.query.question for label in labels] + [example.query.question for example in examples]
        masses = _near_centres(own, len(labels), every, texts, config)
    else:
        masses = _spread(own, len(labels), *_neighbours(every, config), config)
    return [_concluded(label, row, names) for label, row in zip(labels, masses[: len(labels)], strict=True)]


def _own_votes(label: PseudoLabel, column: Mapping[str, int], weights: Mapping[str, float]) -> np.ndarray:
    """The candidates' answers, each by its likelihood per token and its configuration's weight; at most 1 in all."""
    votes = np.zeros(len(column), dtype=np.float64)
    whole = 0.0
    for candidate in label.candidates:
        weight = weights.get(candidate.configuration, 1.0)
        whole += weight
        if candidate.answer is not None:
            votes[column[candidate.answer]] += weight * confidence.confidence(candidate.entropy, 1.0)
    return votes / whole if whole > 0 else votes


# --- centres --------------------------------------------------------------------------------------------------------


def _near_centres(
    own: np.ndarray, queries: int, vectors: Vectors, texts: Sequence[str], config: ConsensusConfig
) -> np.ndarray:
    """Shares of the answers, rows adding up to 1: expectation and maximisation in turns, shape of `own`."""
    # An answer that no example has starts where the model gave it, if it did so as surely as one example would say it:
    # a centre has the same length however little it was made of, and would draw the queries that it lies on.
    shares = np.zeros_like(own)
    shares[queries:] = own[queries:]
    unseen = shares.sum(axis=0) == 0
    shares[:queries, unseen] = own[:queries, unseen]
    silent = shares.sum(axis=0) < _LEAST_MASS
    if silent.all():
        return np.zeros_like(own)
    shares[:, silent] = 0.0
    words = Words(texts) if config.words else None
    scores = np.zeros((queries, own.shape[1]))
    for _ in range(config.steps + 1):
        centres = shares.T @ vectors
        lengths = np.linalg.norm(centres, axis=1, keepdims=True)
        centres = np.divide(centres, lengths, out=np.zeros_like(centres), where=lengths > 0)
        scores = config.sharpness * (vectors[:queries] @ centres.T) + config.votes * own[:queries]
        if words is not None:
            scores += config.words * words.evidence(shares)[:queries]
        scores[:, silent] = -np.inf
        shares[:queries] = _softmax(scores)
    if words is not None:
        shares[:queries] = _softmax(scores / _TOGETHER)
    return shares


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


# --- spreading ------------------------------------------------------------------------------------------------------


def _neighbours(vectors: Vectors, config: ConsensusConfig) -> tuple[np.ndarray, np.ndarray]:
    """The nearest others of each row and their weights, both (rows, neighbours); weights of a row add up to 1 or 0."""
    rows = len(vectors)
    count = min(config.neighbours, rows - 1)
    nearest = np.zeros((rows, count), dtype=np.int64)
    weights = np.zeros((rows, count))
    if count == 0:
        return nearest, weights
    for start in range(0, rows, _BLOCK_ROWS):
        similar = vectors[start : start + _BLOCK_ROWS] @ vectors.T
        places = np.arange(len(similar))
        similar[places, start + places] = -np.inf
        best = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        nearest[start : start + len(similar)] = best
        weights[start : start + len(similar)] = np.maximum(np.take_along_axis(similar, best, axis=1), 0.0)
    weights **= config.power
    sums = weights.sum(axis=1, keepdims=True)
    return nearest, np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)


def _spread(
    own: np.ndarray, queries: int, nearest: np.ndarray, weights: np.ndarray, config: ConsensusConfig
) -> np.ndarray:
    masses = own.copy()
    for _ in range(config.steps):
        others = np.zeros_like(masses)
        for place in range(nearest.shape[1]):
            others += weights[:, place, None] * masses[nearest[:, place]]
        masses = (1 - config.weight) * own + config.weight * others
        masses[queries:] = own[queries:]
    return masses


# --- what is concluded ----------------------------------------------------------------------------------------------


def _concluded(label: PseudoLabel, masses: np.ndarray, names: Sequence[str]) -> PseudoLabel:
    whole = float(masses.sum())
    if not whole > 0.0 or label.answer is None:  # nobody near it has said anything, or the model has said nothing
        return replace(label, consensus=0.0)
    best = int(masses.argmax())
    answer, share = names[best], float(masses[best]) / whole
    if answer == label.answer:
        return replace(label, consensus=share)
    given = [each for each in label.candidates if each.answer == answer] or label.candidates
    entropy = confidence.mean_entropy([each.entropy for each in given])
    agreement = confidence.agreement([each.answer for each in label.candidates], answer)
    return replace(
        label,
        answer=answer,
        entropy=entropy,
        agreement=agreement,
        confidence=confidence.confidence(entropy, agreement),
        justified=False,
        consensus=share,
    )
