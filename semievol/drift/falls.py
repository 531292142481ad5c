"""Has the mean of bounded values fallen below what it was? Asked after every value, with a stated false-alarm rate.

Owns a detector's reference, its evidence and its alarm. The evidence is an e-detector (Shin, Ramdas and Rinaldo,
2203.03532) of Shiryaev and Roberts's form: a gambler starts at each value, stakes on a fall, and the sum of what all of
them have is shown. Without a fall it grows by at most one a value on average, so that it takes at least
`false_alarm_every` values on average to come to that number. Invariant: between two references there is one alarm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from semievol.drift.lower_bound import LowerBound

STAKES = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8])
"""What each gambler stakes, as a share of what may be lost at once: small stakes find small falls."""
REFERENCE_ERROR = 0.05
"""The chance that the bound of the reference is above its true mean, and false alarms come more often than stated."""

Phase = Literal["reference", "watching", "alarmed"]


@dataclass(slots=True)
class FallDetector:
    """Told one value after the other.

    reference: how many values make the reference; `level` is the lower bound of their mean.
    false_alarm_every: the evidence that is an alarm.
    grows: the reference takes in what follows too, so that `level` may rise while nothing is found; never falls.
    evidence, since: of each stake, and the count of values at which the present run of evidence began.
    """

    reference: int
    false_alarm_every: float
    grows: bool = False
    seen: int = 0
    level: float | None = None
    alarmed: bool = False
    bound: LowerBound | None = None
    evidence: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(STAKES)))
    run: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(STAKES)))
    since: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(STAKES), dtype=np.int64))
    mean: float = 0.0

    @property
    def phase(self) -> Phase:
        if self.alarmed:
            return "alarmed"
        return "reference" if self.level is None else "watching"

    @property
    def statistic(self) -> float:
        """The evidence that is held against `false_alarm_every`."""
        return float(self.evidence.mean())

    @property
    def began(self) -> int:
        """After how many values the fall seems to have begun; by the stake with the most evidence."""
        return int(self.since[int(np.argmax(self.run))])

    def add(self, value: float, low: float = 0.0, high: float = 1.0) -> bool:
        """Whether this value raises the alarm. Once raised, what follows is counted and says nothing.

        `low`, `high`: the least and the most that it could have been, known before it.
        """
        self.seen += 1
        if self.alarmed:
            return False
        raised = False
        if self.level is not None:
            raised = self._weigh(value, high)
        if self.level is None or self.grows:
            self._refer(value, low)
        return raised

    def _weigh(self, value: float, high: float) -> bool:
        assert self.level is not None
        factors = 1 + STAKES / (high - self.level) * (self.level - value)
        # Above this it is an alarm long since; below, a gambler who lost all stays in the game by the next one's stake.
        self.evidence = np.minimum((1 + self.evidence) * factors, 1e300)
        self.run += np.log(np.maximum(factors, 1e-300))
        fresh = self.run <= 0
        self.run[fresh], self.since[fresh] = 0.0, self.seen
        self.alarmed = self.statistic >= self.false_alarm_every
        return self.alarmed

    def _refer(self, value: float, low: float) -> None:
        if self.bound is None:
            self.bound = LowerBound(self.reference, REFERENCE_ERROR)
        self.bound.add(value, low)
        if self.bound.count >= self.reference:
            known, self.mean = self.level, self.bound.mean
            self.level = min(0.99, max(self.bound.value, 0.0 if known is None else known))
            if known is None:
                self.since[:] = self.seen
            if not self.grows:
                self.bound = None

    def state(self) -> dict[str, Any]:
        """As JSON has it; `restore` reads it."""
        return {
            "seen": self.seen,
            "level": self.level,
            "alarmed": self.alarmed,
            "mean": self.mean,
            "bound": None if self.bound is None else self.bound.state(),
            "evidence": self.evidence.tolist(),
            "run": self.run.tolist(),
            "since": self.since.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` had said."""
        self.seen, self.level, self.alarmed = state["seen"], state["level"], state["alarmed"]
        self.mean = state["mean"]
        bound = state["bound"]
        self.bound = None if bound is None else LowerBound.of(self.reference, REFERENCE_ERROR, bound)
        self.evidence, self.run = np.array(state["evidence"], dtype=float), np.array(state["run"], dtype=float)
        self.since = np.array(state["since"], dtype=np.int64)
