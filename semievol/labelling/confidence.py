"""How sure the model was, from token log-probabilities and from agreement between candidate answers.

Owns the formulas. Candidate answers come as strings, equal ones meaning the same (see tasks.equality), None for what
did not parse. Invariant: lower entropy means surer, and what was not measured (no tokens, NaN) is infinitely
unsure, so that no missing number can ever be selected.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

MOST_CERTAIN = 8.0
"""More than so many nats nobody's word is taken for: a model that is surer is not likelier right."""


def entropy(logprobs: Sequence[float]) -> float:
    """The paper's H: the mean negative log-probability of a response's tokens.

    Returns:
        Nats per token, >= 0; inf for an empty response or where a log-probability is not a number.
    """
    if not logprobs:
        return math.inf
    if not math.isfinite(sum(logprobs)):  # so is one of them
        return math.inf
    return max(-math.fsum(logprobs) / len(logprobs), 0.0)


def certainty(entropy_nats: float) -> float:
    """Minus the logarithm of the chance that a token is another one, at most MOST_CERTAIN; 0 for what was not measured.

    Returns:
        Nats, the more the surer.
    """
    if not math.isfinite(entropy_nats):
        return 0.0
    return min(MOST_CERTAIN, -math.log(max(1.0 - math.exp(-entropy_nats), math.exp(-MOST_CERTAIN))))


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


def margin(answers: Iterable[str | None], answer: str | None) -> float:
    """The share of `answer` less that of the best other answer, in [-1, 1]; negative where another one has more votes.

    Unparseable candidates have no share, but count in the whole.
    """
    given = list(answers)
    if answer is None or not given:
        return -1.0
    votes = Counter(each for each in given if each is not None)
    others = max((count for each, count in votes.items() if each != answer), default=0)
    return (votes[answer] - others) / len(given)


def weighted_votes(answers: Sequence[str | None], entropies: Sequence[float], answer: str | None) -> float:
    """Agreement in which a candidate counts by its likelihood per token, exp(-entropy); in [0, agreement]."""
    if answer is None or not answers:
        return 0.0
    pairs = zip(answers, entropies, strict=True)
    return math.fsum(_likelihood(nats) for given, nats in pairs if given == answer) / len(answers)


def semantic_entropy(answers: Sequence[str | None], entropies: Sequence[float] | None = None) -> float:
    """The entropy of the candidates over their different meanings (Kuhn et al., 2023, arXiv 2302.09664).

    Here a meaning is an answer, and each unparseable candidate is a meaning of its own.

    Args:
        answers: of all candidates.
        entropies: nats per token; each candidate then counts by its likelihood per token. None: all count the same.

    Returns:
        Nats, from 0 (all mean the same) to log(len(answers)); inf without candidates, or where one was not measured.
    """
    weights = [1.0] * len(answers) if entropies is None else [_likelihood(nats) for nats in entropies]
    if not weights or not all(weights):
        return math.inf
    masses: dict[str | int, list[float]] = {}
    for place, (answer, weight) in enumerate(zip(answers, weights, strict=True)):
        masses.setdefault(place if answer is None else answer, []).append(weight)
    whole = math.fsum(weights)
    shares = [math.fsum(mass) / whole for mass in masses.values()]
    return max(0.0, -math.fsum(share * math.log(share) for share in shares))


def _likelihood(entropy_nats: float) -> float:
    """exp(-entropy); 0 for what was not measured."""
    return 0.0 if math.isnan(entropy_nats) else math.exp(-entropy_nats)


def confidence(entropy_nats: float, agreement_share: float) -> float:
    """exp(-entropy) * agreement, in [0, 1]: for people and plots, never for selection."""
    return _likelihood(entropy_nats) * agreement_share
