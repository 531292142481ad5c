"""Has the mean of bounded values fallen below what it was? Asked after every value, with a stated false-alarm rate.

Owns a detector's reference, its evidence and its alarm. Nobody knows the mean before; so for each that it may have been
(a cell of a grid) two gamblers are followed: one bets on the reference that it was higher than that, and the other ones
start at each later value, with what the first has, and bet that it is lower now. The sum of what these have grows by at
most one a value on average in the cell of the true mean (e-detector of Shiryaev and Roberts's form: Shin, Ramdas and
Rinaldo, 2203.03532; the first is the hedged capital of Waudby-Smith and Ramdas, 2010.09686). The evidence is the least
of all cells. Invariants: where nothing changes, the chance of an alarm within n values is n / `false_alarm_every` at
most (Lenglart's inequality), over references too; between two references there is one alarm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FALLS = np.array([0.03, 0.06, 0.12, 0.25])
"""What the later gamblers each stake for: falls of the mean by so much."""
_BOLDEST = 0.9
"""Of what may be lost at once, the share that is staked at most."""
HIGHER = np.array([1.0, 2.0, 4.0, 8.0])
"""What the first one divides half of its capital over: means above a cell by so many standard errors. The other half it
keeps, so that it has not lost much where the cell is that of the true mean."""
_EDGES = np.array(
    [
        *(-24.0, -16.0, -12.0, -10.0, -8.0, -7.0, -6.0, -5.0, -4.5, -4.0, -3.5, -3.0, -2.75, -2.5, -2.25, -2.0),
        *(-1.75, -1.5, -1.25, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0),
    ]
)
"""Of the cells, in standard errors around the mean of the reference; 0 and 1 are added."""
_AT_ONCE = 64
"""Values that are weighed together: a stake gains and loses so often by what a number can hold."""
_SURELY = 20.0
"""The first gambler's gain at which `level` says that the mean was higher."""
_MOST = 1e300

Phase = Literal["reference", "watching", "alarmed"]


@dataclass(slots=True)
class FallDetector:
    """Told one value after the other.

    reference: how many values make the reference.
    false_alarm_every: the evidence that is an alarm.
    grows: what follows while nothing is found says more of the mean before, for whoever starts to bet after it.
    mean, variance: of the reference; level: above this the mean was, with a chance of 95 % (it never falls).
    """

    reference: int
    false_alarm_every: float
    grows: bool = False
    seen: int = 0
    alarmed: bool = False
    mean: float = 0.0
    variance: float = 0.0
    level: float | None = None
    collected: list[tuple[float, float]] = field(default_factory=list)
    """The reference, until it is whole: values, and the least that each could have been."""
    edges: Floats = field(default_factory=lambda: np.zeros(0))
    """Of the cells, rising; one more than there are cells."""
    moments: Floats = field(default_factory=lambda: np.zeros(3))
    """Of the reference as far as it has grown: count, sum, and squared distances from the running mean."""
    higher: Floats = field(default_factory=lambda: np.zeros((0, len(HIGHER))))
    """The first gambler's capital, as a logarithm, by the upper edge of each cell and by stake."""
    lower: Floats = field(default_factory=lambda: np.zeros((0, len(FALLS))))
    """What the later ones have together, by cell and by stake."""
    run: Floats = field(default_factory=lambda: np.zeros(len(FALLS)))
    since: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(FALLS), dtype=np.int64))
    """By stake, the present run of evidence beside the mean, and the count of values at which it began."""
    _places: Floats = field(default_factory=lambda: np.zeros((0, 1)), repr=False)
    _start: Floats = field(default_factory=lambda: np.zeros((0, 1)), repr=False)
    _stakes: Floats = field(default_factory=lambda: np.zeros((0, len(FALLS))), repr=False)
    _high: float = math.nan

    @property
    def phase(self) -> Phase:
        if self.alarmed:
            return "alarmed"
        return "reference" if self.level is None else "watching"

    @property
    def statistic(self) -> float:
        """The evidence that is held against `false_alarm_every`."""
        return float(self.lower.mean(axis=1).min()) if len(self.lower) else 0.0

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
        if self.level is None:
            self.collected.append((value, low))
            if len(self.collected) >= self.reference:
                self._begin()
            return False
        self._weigh(value, high)
        if self.grows:
            self._refer(value, low)
        return self.alarmed

    def add_all(self, values: Sequence[float]) -> int | None:
        """As `add` of one after the other, in a fraction of the time; the place of the one that raises the alarm.

        Of a detector whose reference does not grow, for values that could have been anything from 0 to 1.
        """
        assert not self.grows
        place = 0
        while self.level is None and place < len(values):
            self.add(values[place])
            place += 1
        while not self.alarmed and place < len(values):
            some = values[place : place + _AT_ONCE]
            raised = self._weigh_all(np.array(some))
            if raised is not None:
                self.seen += len(values) - place
                return place + raised
            self.seen += len(some)
            place += len(some)
        self.seen += len(values) - place
        return None

    def _begin(self) -> None:
        """Lay the cells around the mean of the reference, and let the first gambler go through it."""
        values = np.array([value for value, _ in self.collected])
        count = len(values)
        self.mean = (float(values.sum()) + 0.5) / (count + 1)
        self.variance = (0.25 + float(((values - self.mean) ** 2).sum())) / (count + 1)
        error = math.sqrt(self.variance / count)
        self.edges = np.unique(np.clip([0.0, *(self.mean + error * _EDGES), 1.0], 0.0, 1.0))
        self.higher = np.zeros((len(self.edges) - 1, len(HIGHER)))
        self.lower = np.zeros((len(self.edges) - 1, len(FALLS)))
        for value, low in self.collected:
            self._refer(value, low)
        self.collected = []
        self.since[:] = self.seen
        self._prepare()
        self._bound()

    def _weigh(self, value: float, high: float) -> None:
        # A cell counts by the edge that speaks more for what was: the later ones bet below its lower one.
        if high != self._high:
            self._high, self._stakes = high, self._stakes_at(high)
        factors = 1 + self._stakes * (self._places - value)
        self.lower = np.minimum((self.lower + self._start) * factors[1:], _MOST)
        self.run += np.log(factors[0])
        if (fresh := self.run <= 0).any():
            self.run[fresh], self.since[fresh] = 0.0, self.seen
        self.alarmed = self.statistic >= self.false_alarm_every

    def _weigh_all(self, values: Floats) -> int | None:
        """`_weigh` of each, up to the one that raises the alarm, whose place it is; but for rounding.

        Measured by the capital of who began before all of them: what a later one has is that, over what it was when he
        began. So no value waits for the one before, and numpy is called once for all.
        """
        if self._high != 1.0:
            self._high, self._stakes = 1.0, self._stakes_at(1.0)
        factors = 1 + self._stakes * (self._places - values[:, None, None])  # (values, 1 + cells, stakes)
        first = np.cumprod(factors[:, 1:], axis=0)
        later = np.ones_like(first)
        later[1:] += np.cumsum(1 / first[:-1], axis=0)
        with np.errstate(over="ignore"):
            lower = np.minimum(first * self.lower + self._start * (first * later), _MOST)
        over = np.flatnonzero(lower.mean(axis=2).min(axis=1) >= self.false_alarm_every)
        last = int(over[0]) if len(over) else len(values) - 1
        self.lower, self.alarmed = lower[last].copy(), len(over) > 0
        gains = self.run + np.cumsum(np.log(factors[: last + 1, 0]), axis=0)
        runs = gains - np.minimum(np.minimum.accumulate(gains), 0.0)
        self.run = runs[-1].copy()
        for stake in range(len(FALLS)):
            if len(fresh := np.flatnonzero(runs[:, stake] == 0.0)):
                self.since[stake] = self.seen + fresh[-1] + 1
        return last if self.alarmed else None

    def _stakes_at(self, high: float) -> Floats:
        """By place (the mean, then the cells' lower edges) and fall; no value up to `high` takes more than most."""
        bold = _BOLDEST / np.maximum(high - self._places, 1e-9)
        return np.minimum(FALLS / (self.variance + FALLS**2), bold)

    def _prepare(self) -> None:
        """What follows from the reference as it is."""
        self._places = np.concatenate([[self.mean], self.edges[:-1]])[:, None]
        self._start = 0.5 + 0.5 * np.exp(np.minimum(self.higher, 600.0)).mean(axis=1, keepdims=True)
        self._high = math.nan

    def _refer(self, value: float, low: float) -> None:
        count, total, squares = self.moments
        variance = max((0.25 + squares) / (count + 1), 1e-4)
        stakes = HIGHER / math.sqrt(variance * max(self.reference, count + 1))
        cells = self.edges[1:, None]
        self.higher += np.log1p(np.minimum(stakes, _BOLDEST / (cells - low)) * (value - cells))
        mean = (total + value + 0.5) / (count + 2)
        self.moments += (1.0, value, (value - mean) ** 2)
        if self.level is not None:
            self._start = 0.5 + 0.5 * np.exp(np.minimum(self.higher, 600.0)).mean(axis=1, keepdims=True)
            self._bound()

    def _bound(self) -> None:
        surely = np.flatnonzero(self._start >= _SURELY)
        bound = float(self.edges[surely[-1] + 1]) if len(surely) else 0.0
        self.level = bound if self.level is None else max(self.level, bound)

    def state(self) -> dict[str, Any]:
        """As JSON has it; `restore` reads it."""
        return {
            "form": FORM,
            "seen": self.seen,
            "alarmed": self.alarmed,
            "mean": self.mean,
            "variance": self.variance,
            "level": self.level,
            "collected": self.collected,
            "edges": _written(self.edges),
            "moments": self.moments.tolist(),
            "higher": _written(self.higher),
            "evidence": self.statistic,
            "lower": _written(self.lower),
            "run": self.run.tolist(),
            "since": self.since.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` had said; from the beginning, where another form of detector had said it."""
        if state.get("form") != FORM:
            return
        self.seen, self.alarmed = state["seen"], state["alarmed"]
        self.mean, self.variance, self.level = state["mean"], state["variance"], state["level"]
        self.collected = [(float(value), float(low)) for value, low in state["collected"]]
        self.edges, self.moments = np.array(state["edges"], dtype=float), np.array(state["moments"], dtype=float)
        self.higher = np.array(state["higher"], dtype=float).reshape(-1, len(HIGHER))
        self.lower = np.array(state["lower"], dtype=float).reshape(-1, len(FALLS))
        self.run, self.since = np.array(state["run"], dtype=float), np.array(state["since"], dtype=np.int64)
        if self.level is not None:
            self._prepare()


FORM = 2


def _written(values: Floats) -> Any:
    """With 12 digits, in the fewest characters."""
    return [float(f"{each:.12g}") for each in values.ravel()]
