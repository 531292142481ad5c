"""The binomial distribution, as far as proofs and certificates need it; no library is worth its weight for that."""

from __future__ import annotations

import math


def binomial_cdf(successes: int, trials: int, probability: float) -> float:
    """P(X <= successes) for X ~ Binomial(trials, probability), 0 < probability < 1; exact but for rounding (1e-10)."""
    if successes >= trials:
        return 1.0
    return min(1.0, math.fsum(binomial_mass(k, trials, probability) for k in range(successes + 1)))


def binomial_mass(successes: int, trials: int, probability: float) -> float:
    """P(X = successes)."""
    ways = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    return math.exp(ways + successes * math.log(probability) + (trials - successes) * math.log1p(-probability))
