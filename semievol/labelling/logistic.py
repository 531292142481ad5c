"""Logistic regression: of many classes on vectors, and of right and wrong on evidence that may only speak for.

Owns the two fits and what minimises them; pure numpy, so that whoever selects needs no library of its own. Both losses
are convex and started from zero: the same rows in the same order give the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Loss = Callable[[Floats], tuple[float, Floats]]
"""The loss at a point, and its gradient there."""

MEMORY = 8
"""Steps that the curvature is guessed from."""


def minimised(loss: Loss, start: Floats, *, steps: int = 300, tolerance: float = 1e-5) -> Floats:
    """Where a smooth convex loss is least: L-BFGS (Nocedal and Wright, 2006, algorithm 7.5), steps halved until enough
    is gained (Armijo).

    Args:
        loss: of a vector.
        start: where it begins, shape (n,).
        steps: at most so many.
        tolerance: the end is where no component of the gradient is larger.
    """
    point = start.astype(np.float64)
    value, slope = loss(point)
    moves: list[Floats] = []
    changes: list[Floats] = []
    for _ in range(steps):
        if np.abs(slope).max(initial=0.0) <= tolerance:
            break
        direction = _direction(slope, moves, changes)
        gain = float(direction @ slope)
        if gain >= 0.0:  # rounding has spoiled the guess of the curvature
            direction, gain = -slope, -float(slope @ slope)
            moves, changes = [], []
        length = 1.0 if moves else min(1.0, 1.0 / float(np.abs(slope).sum()))
        for _ in range(40):
            reached = point + length * direction
            found, there = loss(reached)
            if found <= value + 1e-4 * length * gain:
                break
            length /= 2.0
        else:
            break
        move, change = reached - point, there - slope
        if float(move @ change) > 1e-12 * float(change @ change):
            moves, changes = [*moves[1 - MEMORY :], move], [*changes[1 - MEMORY :], change]
        point, value, slope = reached, found, there
    return point


def _direction(slope: Floats, moves: list[Floats], changes: list[Floats]) -> Floats:
    """Minus the gradient times the inverse curvature that the last steps show."""
    found = slope.copy()
    shares = []
    for move, change in zip(reversed(moves), reversed(changes), strict=True):
        share = float(move @ found) / float(move @ change)
        shares.append(share)
        found -= share * change
    if moves:
        found *= float(moves[-1] @ changes[-1]) / float(changes[-1] @ changes[-1])
    for move, change, share in zip(moves, changes, reversed(shares), strict=True):
        found += move * (share - float(change @ found) / float(move @ change))
    return -found


# --- many classes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Softmax:
    """A linear model of classes. weights: shape (dimensions, classes); bias: shape (classes,)."""

    weights: Floats
    bias: Floats

    def probabilities(self, rows: NDArray[np.floating]) -> Floats:
        """Of each class, shape (rows, classes); those of a row add up to 1."""
        scores = rows.astype(np.float64) @ self.weights + self.bias
        return np.exp(scores - log_sum(scores))


def softmax_regression(
    rows: NDArray[np.floating], classes: NDArray[np.int64], count: int, penalty: float, start: Softmax | None = None
) -> Softmax:
    """The model that minimises the sum of -log p(class) and `penalty` / 2 times the squared weights (no bias).

    Args:
        rows: shape (rows, dimensions), at least one.
        classes: of each row, in [0, count).
        count: how many classes there are.
        penalty: above 0.
        start: another model of the same shape, which saves steps.
    """
    matrix = rows.astype(np.float64)
    number, width = matrix.shape
    wanted = np.zeros((number, count))
    wanted[np.arange(number), classes] = 1.0

    def loss(point: Floats) -> tuple[float, Floats]:
        weights, bias = point[: width * count].reshape(width, count), point[width * count :]
        scores = matrix @ weights + bias
        logs = scores - log_sum(scores)
        missed = np.exp(logs) - wanted
        value = -float((wanted * logs).sum()) + 0.5 * penalty * float((weights * weights).sum())
        slope = np.concatenate([(matrix.T @ missed + penalty * weights).ravel(), missed.sum(axis=0)])
        return value / number, slope / number

    begin = np.zeros((width + 1) * count)
    if start is not None:
        begin = np.concatenate([start.weights.ravel(), start.bias])
    found = minimised(loss, begin)
    return Softmax(found[: width * count].reshape(width, count), found[width * count :])


def log_sum(scores: Floats) -> Floats:
    """The logarithm of the sum of exp of each row, shape (rows, 1)."""
    most = scores.max(axis=1, keepdims=True)
    found: Floats = most + np.log(np.exp(scores - most).sum(axis=1, keepdims=True))
    return found


# --- right and wrong ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sureness:
    """How likely evidence makes an answer right. Every weight is at least 0: no evidence for it ever speaks against it.

    lows, highs: what of each kind was seen: beyond that, more of it says no more. means, scales, weights: of each kind;
    bias: the log-odds where all evidence is average.
    """

    lows: Floats
    highs: Floats
    means: Floats
    scales: Floats
    weights: Floats
    bias: float

    def probabilities(self, evidence: Floats) -> Floats:
        """Shape (rows,), from evidence of shape (rows, kinds)."""
        seen = np.clip(evidence, self.lows, self.highs)
        scores = ((seen - self.means) / self.scales) @ self.weights + self.bias
        found: Floats = 1.0 / (1.0 + np.exp(-np.clip(scores, -40.0, 40.0)))
        return found


def sureness(evidence: Floats, right: NDArray[np.bool_], penalty: float = 1.0) -> Sureness:
    """Logistic regression with weights of at least 0, by accelerated projected gradients (Beck and Teboulle, 2009).

    Args:
        evidence: shape (rows, kinds); the higher, the likelier right.
        right: of each row. Where all are right, or none is, the probability stays within what so many rows can say
            (one more of each kind is thought to be there).
        penalty: of half the squared weights, of evidence that is scaled to a spread of 1.
    """
    means, scales = evidence.mean(axis=0), evidence.std(axis=0)
    scales = np.where(scales > 1e-9, scales, 1.0)
    matrix = (evidence - means) / scales
    number = len(matrix)
    # Laplace's rule on the bias alone: two rows of average evidence, one of each kind.
    matrix = np.concatenate([matrix, np.zeros((2, matrix.shape[1]))])
    wanted = np.concatenate([right.astype(np.float64), [1.0, 0.0]])
    whole = np.concatenate([matrix, np.ones((len(matrix), 1))], axis=1)
    penalties = np.append(np.full(matrix.shape[1], penalty), 0.0)
    curvature = float(np.linalg.eigvalsh(whole.T @ whole / 4.0 + np.diag(penalties))[-1])
    lower = np.append(np.zeros(matrix.shape[1]), -np.inf)
    point = ahead = np.zeros(whole.shape[1])
    momentum = 1.0
    for _ in range(20_000):
        chances = 1.0 / (1.0 + np.exp(-np.clip(whole @ ahead, -40.0, 40.0)))
        slope = whole.T @ (chances - wanted) + penalties * ahead
        reached = np.maximum(ahead - slope / curvature, lower)
        if float((ahead - reached) @ (reached - point)) > 0.0:  # it has overshot: begin anew (O'Donoghue, Candes, 2015)
            momentum = 1.0
        following = (1.0 + np.sqrt(1.0 + 4.0 * momentum * momentum)) / 2.0
        ahead = reached + (momentum - 1.0) / following * (reached - point)
        done = float(np.abs(reached - point).max()) <= 1e-9 * max(1, number) ** 0.5
        point, momentum = reached, following
        if done:
            break
    return Sureness(evidence.min(axis=0), evidence.max(axis=0), means, scales, point[:-1], float(point[-1]))
