"""Does what is counted (answers, kinds of query) come as often as it did? Asked again and again, over several windows.

Owns the two-sample test and its evidence. A window of the newest is held against all that came before it, reference
included, by drawing as many at random from both together, again and again: without a drift the window is one of these
draws, whatever the frequencies and however few were counted, so that the share of draws which lie as far out is a
p-value that holds at the actual sizes. A mix of many kinds is seen by large windows alone, and a large shift by small
ones sooner; so there are some, each twice as long as the one before, each looked at four times in its length. A look
may alarm by chance as often as its share of the things that came since the last one allows. Invariant: where nothing
changes, the chance of an alarm within n things is n / `false_alarm_every` at most (the sum over all looks).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BATCH = 48
"""Things in the shortest window where there are few kinds."""
LARGEST = 256
QUARTERS = 4
"""Looks in the length of a window."""
WINDOWS = 4
"""Of 1, 2, 4 and 8 times the shortest one."""
LONGEST = QUARTERS << (WINDOWS - 1)
"""Blocks in the longest window."""
_FIRST, _AT_ONCE = 50, 400
_ENOUGH = 4
"""Draws that lie as far out, after which no more are needed (Besag and Clifford, 1991)."""
MOST_DRAWS = 200_000
"""Of one look: seconds. Where a false alarm is to come so seldom that more are needed, longer windows alarm alone."""
_SUFFIX_DRAWS = 99
_RARE = 1e-3
_SLIGHT, _STRONG = 1.0, 2.5
"""Standard errors beyond what is usual, below which nothing is drawn: the stronger where only a p-value of _RARE is an
alarm. So far out lie at least 0.6 % of all draws (as of a normal distribution, to which these squares add up in the
limit; of fewer kinds it has the longer tail)."""
MOST_KINDS = 500
"""A test takes time and memory by the kind: with more of them they are counted in BUCKETS."""
BUCKETS = 64
MOST_POOL = 10_000_000
"""A larger pool would make no test sharper, and numpy draws from fewer than 1e9."""
FORM = 2


@dataclass(slots=True)
class MixDetector:
    """Told one kind after the other.

    Args:
        reference: how many make the reference, before a window is looked at.
        false_alarm_every: in things counted; the evidence that is an alarm.
        batch_size: of the shortest window, a multiple of QUARTERS; `batch_for` knows how many.
        seed: of the draws; with the number of the look, so that a window that is looked at again is seen alike.
    """

    reference: int
    false_alarm_every: float
    batch_size: int
    seed: int
    seen: int = 0
    alarmed: bool = False
    pool: Counter[str] = field(default_factory=Counter)
    """What came before the blocks."""
    blocks: list[Counter[str]] = field(default_factory=list)
    """The newest, by quarters of the shortest window, oldest first; the longest window at most."""
    block: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    """Blocks that were completed so far."""
    evidence: NDArray[np.float64] = field(default_factory=lambda: np.zeros(WINDOWS))
    """Of each window, by its last look."""
    since: int = 0
    lately: Counter[str] = field(default_factory=Counter)
    """What was counted since the shift that was found seems to have begun."""
    folded: bool = False
    """Kinds are counted in buckets."""
    _counts: _Counts | None = field(default=None, repr=False, compare=False)
    """Pool and blocks as the looks compute with them; None: they have changed otherwise than by a block more."""

    @property
    def phase(self) -> Literal["reference", "watching", "alarmed"]:
        if self.alarmed:
            return "alarmed"
        return "reference" if self.seen < self.reference else "watching"

    @property
    def statistic(self) -> float:
        return float(self.evidence.max())

    @property
    def began(self) -> int:
        """After how many things the shift seems to have begun."""
        return self.since if self.alarmed else self.seen

    def add(self, kind: str) -> bool:
        """Whether this one, as the last of a window, raises the alarm."""
        return self.add_all([kind]) is not None

    def add_all(self, kinds: Sequence[str]) -> int | None:
        """The place of the one that raises the alarm; what comes after an alarm is counted and says nothing."""
        place, raised, size = 0, None, self.batch_size // QUARTERS
        while place < len(kinds) and not self.alarmed:
            refers = self.seen < self.reference
            lacking = self.reference - self.seen if refers else size - self.block.total()
            some = kinds[place : place + lacking]
            (self.pool if refers else self.block).update(map(bucket, some) if self.folded else some)
            self.seen, place = self.seen + len(some), place + len(some)
            if not refers and self.block.total() >= size:
                raised = place - 1 if self._complete() else None
        self.seen += len(kinds) - place
        return raised

    def _complete(self) -> bool:
        """The newest block is whole: whether a window that it completes raises the alarm."""
        self.blocks.append(self.block)
        self.block, self.looks = Counter(), self.looks + 1
        windows = [window for window in range(WINDOWS) if self._due(window)]
        if windows:
            self._look(windows, np.random.default_rng([self.seed, self.looks]))
        while len(self.blocks) >= LONGEST:
            self.pool += self.blocks.pop(0)
        return self.alarmed

    def _due(self, window: int) -> bool:
        """Whether the newest block completes a window of this length that is to be looked at."""
        return self.looks % (1 << window) == 0 and len(self.blocks) >= QUARTERS << window

    def _look(self, windows: Sequence[int], rng: np.random.Generator) -> None:
        """Until one of these windows raises the alarm."""
        counts = self._counted()
        if self._bound(counts.kinds, rng):
            counts = self._counted()
        for window in windows:
            count = QUARTERS << window
            share = (1 << window) * (self.batch_size // QUARTERS) / WINDOWS
            most = min(MOST_DRAWS, math.ceil(2 * self.false_alarm_every / share))
            drawn = counts.newest(count)
            wanted = share / self.false_alarm_every
            self.evidence[window] = share / _p_value(drawn, counts.total, rng, most, wanted)
            self.alarmed = bool(self.evidence[window] >= self.false_alarm_every)
            if self.alarmed:
                newest = self.blocks[-count:]
                length = _since(self.pool + _sum(self.blocks[:-count]), newest, rng)
                self.lately = _sum(newest[-length:])
                self.since = self.seen - self.lately.total()
                return

    def _bound(self, kinds: int, rng: np.random.Generator) -> bool:
        """Keep the pool, and so many kinds, within what can be tested; whether they were not.

        p-values stay what they are: what a coin keeps of the pool comes in no other mix than the whole, and whether
        kinds are folded depends on pool and blocks together, not on which of them a thing is in.
        """
        while self.pool.total() > MOST_POOL:
            self.pool = +Counter({kind: int(rng.binomial(count, 0.5)) for kind, count in self.pool.items()})
            self._counts = None
        if not self.folded and kinds > MOST_KINDS:
            self.pool, self.blocks = _folded(self.pool), [_folded(each) for each in self.blocks]
            self.folded, self._counts = True, None
        return self._counts is None

    def _counted(self) -> _Counts:
        """Pool and blocks by kind, of which only the newest block is counted anew."""
        if self._counts is None or not self._counts.add(self.blocks[-1]):
            self._counts = _Counts(self.pool, self.blocks)
        return self._counts

    def moved(self, most: int = 5) -> list[tuple[str, float, float]]:
        """The kinds that moved most by the shift that was found, with their share before and since; [0, 1] each."""
        return moved(self.pool + _sum(self.blocks) - self.lately, self.lately, most)

    def state(self) -> dict[str, Any]:
        """As JSON has it; `restore` reads it."""
        return {
            "form": FORM,
            "seen": self.seen,
            "alarmed": self.alarmed,
            "pool": dict(self.pool),
            "blocks": [dict(each) for each in self.blocks],
            "block": dict(self.block),
            "looks": self.looks,
            "evidence": self.statistic,
            "by_window": self.evidence.tolist(),
            "since": self.since,
            "lately": dict(self.lately),
            "folded": self.folded,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` had said; from the beginning, where another form of detector had said it."""
        if state.get("form") != FORM:
            return
        self.seen, self.alarmed, self.looks = state["seen"], state["alarmed"], state["looks"]
        self.pool, self.block, self.lately = (Counter(state[name]) for name in ("pool", "block", "lately"))
        self.blocks = [Counter(each) for each in state["blocks"]]
        self.evidence = np.array(state["by_window"], dtype=float)
        self.since, self.folded, self._counts = state["since"], state["folded"], None


class _Counts:
    """Pool and blocks as numbers by kind, the kinds in order.

    blocks: a row for each, the newest last, as far as the longest window needs. total: pool and blocks together.
    """

    def __init__(self, pool: Mapping[str, int], blocks: Sequence[Mapping[str, int]]) -> None:
        self._column = {kind: column for column, kind in enumerate(sorted(set(pool).union(*blocks)))}
        self._blocks = np.array([self._row(block) for block in blocks])
        self.total = self._row(pool) + self._blocks.sum(axis=0)

    def add(self, block: Mapping[str, int]) -> bool:
        """One more block; False: it has a new kind, and nothing is added."""
        if not block.keys() <= self._column.keys():
            return False
        row = self._row(block)
        self._blocks = np.concatenate([self._blocks[1 - LONGEST :], row[None]])
        self.total = self.total + row
        return True

    def newest(self, count: int) -> NDArray[np.int64]:
        """Of so many of the newest blocks together, by kind."""
        found: NDArray[np.int64] = np.add.reduce(self._blocks[-count:])
        return found

    @property
    def kinds(self) -> int:
        """How many there are."""
        return len(self._column)

    def _row(self, counts: Mapping[str, int]) -> NDArray[np.int64]:
        row = np.zeros(len(self._column), dtype=np.int64)
        for kind, count in counts.items():
            row[self._column[kind]] = count
        return row


def batch_for(kinds: int) -> int:
    """The size of the shortest window for so many kinds: where most come less than once in it, little is seen."""
    return QUARTERS * math.ceil(min(LARGEST, max(BATCH, 2 * kinds)) / QUARTERS)


def bucket(kind: str) -> str:
    """The name of one of BUCKETS, by a fixed hash."""
    digest = hashlib.blake2b(kind.encode(errors="surrogatepass"), digest_size=4).digest()
    return f"#{int.from_bytes(digest) % BUCKETS}"


def p_value(before: Mapping[str, int], newest: Mapping[str, int], rng: np.random.Generator, most: int) -> float:
    """The share of random draws from both together that lie as far from them as `newest`; in [1 / (most + 1), 1].

    How far: the squared distance from what is expected of each kind, over what is expected and one more, so that kinds
    which hardly ever come do not decide alone. What is nothing out of the ordinary is called 1 without a draw, and
    draws end early where enough lie as far out: neither makes an alarm likelier.
    """
    drawn, together = _beside(before, newest)
    return _p_value(drawn, together, rng, most)


def _p_value(
    drawn: NDArray[np.int64], together: NDArray[np.int64], rng: np.random.Generator, most: int, wanted: float = 1.0
) -> float:
    """`p_value` of what is counted by kind: `drawn` are the newest, `together` all. wanted: more says nothing."""
    size, total = int(np.add.reduce(drawn)), int(np.add.reduce(together))
    expected = together * (size / total)
    far = _far(drawn, expected)
    # Mean and variance of what is drawn, were it normal: its covariance is S = spread * (diag(expected) - expected
    # expected' / size), and it is weighed by W = 1 / (expected + 1); trace(W S) and 2 trace(W S W S).
    spread, weighed = (total - size) / max(1, total - 1), expected / (expected + 1)
    cross = float(weighed @ expected) / size
    mean = spread * (float(np.add.reduce(weighed)) - cross)
    variance = 2 * spread**2 * (float(weighed @ weighed) - 2 * float(weighed * weighed @ expected) / size + cross**2)
    errors = _STRONG if wanted <= _RARE else _SLIGHT
    if far < mean + errors * math.sqrt(max(0.0, variance)):
        return 1.0
    beyond = made = 0
    while made < most:
        count = min(_AT_ONCE, max(_FIRST, made), most - made)
        others = _far(_others(together, size, count, rng), expected)
        beyond_here = np.flatnonzero(others >= far - 1e-9)
        if beyond + len(beyond_here) >= _ENOUGH:
            return float(_ENOUGH / (made + beyond_here[_ENOUGH - beyond - 1] + 1))
        beyond, made = beyond + len(beyond_here), made + count
    return (1 + beyond) / (1 + made)


def _since(before: Mapping[str, int], newest: Sequence[Mapping[str, int]], rng: np.random.Generator) -> int:
    """Of how many of the last blocks it is surest that they are others than what came before."""

    def surely(length: int) -> float:
        rest = _sum(newest[:-length]) + Counter(before)
        drawn, together = _beside(rest, _sum(newest[-length:]))
        expected = together * (drawn.sum() / together.sum())
        others = _far(_others(together, int(drawn.sum()), _SUFFIX_DRAWS, rng), expected)
        return float((_far(drawn, expected) - others.mean()) / max(float(others.std()), 1e-9))

    return max(range(1, len(newest) + 1), key=surely)


def _beside(before: Mapping[str, int], newest: Mapping[str, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """By kind: how often it is among the newest, and in both together."""
    kinds = sorted({*before, *newest})
    drawn = np.array([newest.get(kind, 0) for kind in kinds], dtype=np.int64)
    together = drawn + np.array([before.get(kind, 0) for kind in kinds], dtype=np.int64)
    return drawn, together


def _others(together: NDArray[np.int64], size: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    # Thing by thing, or kind by kind: whichever has less to draw; the former lays out all things first.
    by_thing = size + together.sum() / count < 10 * len(together)
    return rng.multivariate_hypergeometric(together, size, size=count, method="count" if by_thing else "marginals")


def _far(drawn: NDArray[np.int64], expected: NDArray[np.floating[Any]]) -> Any:
    away = drawn - expected
    return (away * away) @ (1 / (expected + 1))


def _sum(counts: Sequence[Mapping[str, int]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for each in counts:
        found.update(each)
    return found


def _folded(counts: Mapping[str, int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for kind, count in counts.items():
        found[bucket(kind)] += count
    return found


def moved(before: Mapping[str, int], since: Mapping[str, int], most: int) -> list[tuple[str, float, float]]:
    """The `most` kinds whose share differs most between the two counts, by how surely; with both shares."""
    sizes = max(1, sum(before.values())), max(1, sum(since.values()))

    def shares(kind: str) -> tuple[float, float]:
        return before.get(kind, 0) / sizes[0], since.get(kind, 0) / sizes[1]

    def surely(kind: str) -> float:
        old, new = shares(kind)
        both = (before.get(kind, 0) + since.get(kind, 0) + 1) / (sizes[0] + sizes[1] + 2)
        return abs(new - old) / math.sqrt(both * (1 - both) * (1 / sizes[0] + 1 / sizes[1]))

    kinds = sorted({*before, *since}, key=lambda kind: (-surely(kind), kind))
    return [(kind, *shares(kind)) for kind in kinds[:most]]
