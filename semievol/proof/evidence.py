"""Evidence that may be looked at after every label: e-values of paired answers, and how many labels are still needed.

Pure and exact: no sample is drawn and nothing is approximated beyond the last rounding. A pair is a win (only the
candidate is right), a loss (only the incumbent is right) or a tie. Invariant: while the claim that is tested against
holds, each value is a supermartingale that starts at 1, so that it ever reaches 1/alpha with a probability of at most
alpha, however often it is looked at (Ville). Values are logarithms to the base e: a long proof leaves a float's range.

Sources: arXiv 2010.09686 (betting), 2110.00115 (comparing forecasters), 2210.01948 (a survey).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from semievol.binomial import binomial_cdf

GRID = 20
"""Stakes of the wealth process."""
FARTHEST = 4_000
"""Pairs that differ, beyond which nobody counts what is still needed."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """How often the two models' answers to the same labelled queries were right."""

    wins: int = 0
    losses: int = 0
    ties: int = 0

    @property
    def count(self) -> int:
        return self.wins + self.losses + self.ties

    @property
    def differ(self) -> int:
        return self.wins + self.losses


@lru_cache(maxsize=4096)
def log_better(wins: int, losses: int) -> float:
    """Log E against "the candidate is not better": the likelihood ratio averaged over win rates uniform in (1/2, 1].

    `E = 2^(D+1) B(W+1, L+1) P(Beta(W+1, L+1) > 1/2)`, in whole numbers `sum_(k <= W) C(D+1, k) / ((D+1) C(D, W))`.
    Ties say nothing. With wins and losses exchanged it is the evidence that the candidate is worse.
    """
    differ = wins + losses
    total = _first_ways(differ + 1, wins) if wins <= losses else (2 << differ) - _first_ways(differ + 1, losses)
    return math.log(total) - math.log((differ + 1) * math.comb(differ, wins))


def _first_ways(trials: int, most: int) -> int:
    """`sum_(k <= most) C(trials, k)`"""
    total = ways = 1
    for k in range(1, most + 1):
        ways = ways * (trials + 1 - k) // k
        total += ways
    return total


def log_gain_above(pairs: Pairs, margin: float) -> float:
    """Log of the evidence that more than `margin` of all queries are gained: `prod(1 + l (x - margin))`, with x in
    {-1, 0, 1}, averaged over a grid of stakes l in (0, 1/(1 + margin)).
    """
    return _log_wealth(pairs.wins, pairs.losses, pairs.ties, margin)


def log_gain_below(pairs: Pairs, margin: float) -> float:
    """Log of the evidence that less than `margin` is gained: the same with the sign turned. At 1/beta it is futile to
    wait for a gain of `margin`.
    """
    return _log_wealth(pairs.losses, pairs.wins, pairs.ties, -margin)


def log_mean_above(differences: Sequence[float], margin: float) -> float:
    """Log of the evidence that the mean of values in [-1, 1] is above `margin`: as `log_gain_above`, for any values."""
    most = 1.0 / (1.0 + abs(margin))
    stakes = [most * step / (GRID + 1) for step in range(1, GRID + 1)]
    logs = [sum(math.log1p(stake * (each - margin)) for each in differences) for stake in stakes]
    highest = max(logs)
    return highest + math.log(sum(math.exp(each - highest) for each in logs) / GRID)


def _log_wealth(up: int, down: int, ties: int, margin: float) -> float:
    most = 1.0 / (1.0 + abs(margin))
    logs = []
    for step in range(1, GRID + 1):
        stake = most * step / (GRID + 1)
        logs.append(
            up * math.log1p(stake * (1.0 - margin))
            + down * math.log1p(-stake * (1.0 + margin))
            + ties * math.log1p(-stake * margin)
        )
    highest = max(logs)
    return highest + math.log(sum(math.exp(each - highest) for each in logs) / GRID)


def wins_needed(alpha: float) -> Iterator[int]:
    """For 0, 1, 2, ... losses, the fewest wins with which E reaches 1/alpha. The numbers never fall."""
    enough = math.log(1.0 / alpha)
    wins = losses = 0
    while True:
        while log_better(wins, losses) < enough:
            wins += 1
        yield wins
        losses += 1


def labels_needed(pairs: Pairs, alpha: float) -> int | None:
    """How many more labels prove the candidate better, if they go on as the pairs so far: the same share differs, and
    of those the same share is won.

    0: it is proved. None: at this rate none do (nothing differs, not more wins than losses, or too many are needed).
    """
    enough = math.log(1.0 / alpha)
    if log_better(pairs.wins, pairs.losses) >= enough:
        return 0
    if pairs.wins <= pairs.losses:
        return None
    share = pairs.wins / pairs.differ

    def proves(more: int) -> bool:
        """Half a win is none."""
        won = int(more * share + 1e-9)
        return log_better(pairs.wins + won, pairs.losses + more - won) >= enough

    few, many = 0, 1
    while not proves(many):
        if many > FARTHEST:
            return None
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if proves(middle) else (middle, many)
    return math.ceil(many * pairs.count / pairs.differ)


def upper_bound(events: int, trials: int, level: float) -> float:
    """The largest rate with which so few events, or fewer, still have the probability `1 - level` (Clopper-Pearson)."""
    if events >= trials:
        return 1.0
    low, high = events / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(events, trials, middle) > 1.0 - level else (low, middle)
    return high
