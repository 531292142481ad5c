"""How sure the model was, from token log-probabilities and from agreement between candidate answers.

Owns the formulas. Invariant: lower entropy means surer, and what was not measured (no tokens, NaN) is infinitely
unsure, so that no missing number can ever be selected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def entropy(logprobs: Sequence[float]) -> float:
    """The paper's H: the mean negative log-probability of a response's tokens.

    Returns:
        Nats per token, >= 0; inf for an empty response or where a log-probability is not a number.
    """
    if not logprobs:
        return math.inf
    value = -math.fsum(logprobs) / len(logprobs) if all(map(math.isfinite, logprobs)) else math.inf
    return max(value, 0.0)


def mean_entropy(entropies: Sequence[float]) -> float:
    """The mean of several responses' entropies, nats per token; inf when there are none."""
    if not entropies:
        return math.inf
    return math.fsum(entropies) / len(entropies)


def agreement(answers: Iterable[str | None], answer: str | None) -> float:
    """The share of all candidate answers that parsed to `answer`; unparseable ones (None) count against it."""
    given = list(answers)
    if answer is None or not given:
        return 0.0
    return given.count(answer) / len(given)


def confidence(entropy_nats: float, agreement_share: float) -> float:
    """exp(-entropy) * agreement, in [0, 1]: for people and plots, never for selection."""
    if math.isnan(entropy_nats):
        return 0.0
    return math.exp(-entropy_nats) * agreement_share
