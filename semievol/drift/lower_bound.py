"""A lower bound on the mean of bounded values that holds at every moment, by bets that the mean is higher.

Owns the bet's bookkeeping. For each mean m of a grid, a gambler who bets that the values are above m on average gets
rich only where m is below the true mean: those m above which nobody got rich are not excluded. Hedged capital of
Waudby-Smith and Ramdas, 2010.09686. Invariant: with probability 1 - `error` the bound is below the true mean at all
times at once, so that it may be read after each value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 200
_BOLDEST = 0.5
"""Of what may be lost at once, the share that is staked at most."""


@dataclass(slots=True)
class LowerBound:
    """Told one value after the other.

    planned: for about how many values the stakes are chosen; the bound holds for any number.
    error: the chance that the bound is ever above the true mean.
    """

    planned: int
    error: float
    count: int = 0
    total: float = 0.0
    squares: float = 0.25
    log_capital: NDArray[np.float64] = field(default_factory=lambda: np.zeros(STEPS))

    @property
    def mean(self) -> float:
        """Of the values so far, with half a value at a half."""
        return (self.total + 0.5) / (self.count + 1)

    def add(self, value: float, low: float = 0.0) -> None:
        """One more value; `low` is the least that it could have been (known before it)."""
        variance = max(self.squares / (self.count + 1), 1e-4)
        planned = max(self.planned, self.count + 1)
        stake = math.sqrt(2 * math.log(1 / self.error) / (variance * planned))
        stakes = np.minimum(stake, _BOLDEST / (_GRID - low))
        self.log_capital += np.log1p(stakes * (value - _GRID))
        self.total += value
        self.count += 1
        self.squares += (value - self.mean) ** 2

    @property
    def value(self) -> float:
        """The bound, in [0, 1]."""
        excluded = self.log_capital >= math.log(1 / self.error)
        first = int(np.argmin(excluded))  # the capital falls with the mean
        return 0.0 if first == 0 else float(_GRID[first - 1])

    def state(self) -> dict[str, Any]:
        """As JSON has it; `of` reads it."""
        return {
            "count": self.count,
            "total": self.total,
            "squares": self.squares,
            "log_capital": [round(float(each), 9) for each in self.log_capital],
        }

    @classmethod
    def of(cls, planned: int, error: float, state: dict[str, Any]) -> LowerBound:
        return cls(
            planned,
            error,
            state["count"],
            state["total"],
            state["squares"],
            np.array(state["log_capital"], dtype=float),
        )


_GRID = (np.arange(STEPS) + 0.5) / STEPS
