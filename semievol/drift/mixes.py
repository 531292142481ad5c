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
_DENSE = 10
_SKIPPED = ((0.03, 1.0), (1e-3, 2.5))
"""Where only so small a p-value is an alarm, nothing is drawn for what lies less than so many standard errors beyond
the usual: at least 3 % and 0.3 % of all draws lie further out. The second where _DENSE things of a kind were counted,
on average: with few the squares vary less than is reckoned."""
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
        """The place of the one that raises the alarm; what comes after an alarm is counted and says nothing.

        However they are parted into calls, the same is found: many at once are weighed in the same calls of numpy.
        """
        place, raised, size = 0, None, self.batch_size // QUARTERS
        while place < len(kinds) and not self.alarmed:
            refers = self.seen < self.reference
            lacking = self.reference - self.seen if refers else size - self.block.total()
            if refers or len(kinds) - place < lacking:
                some = self._named(kinds[place : place + lacking])
                counted = self.pool if refers else self.block
                counted.update(some)
                self.seen, place = self.seen + len(some), place + len(some)
                continue
            blocks = self._cut(kinds, place, lacking)
            completed, found = self._complete(blocks)
            taken = lacking + (completed - 1) * size
            self.seen, place = self.seen + taken, place + taken
            if found:
                self.since, raised = self.seen - self.lately.total(), place - 1
        self.seen += len(kinds) - place
        return raised

    def _named(self, kinds: Sequence[str]) -> Sequence[str]:
        return [bucket(kind) for kind in kinds] if self.folded else kinds

    def _cut(self, kinds: Sequence[str], place: int, lacking: int) -> list[Counter[str]]:
        """The blocks that the things from this place on complete; near the bounds of pool and kinds one alone."""
        size = self.batch_size // QUARTERS
        ends = range(place + lacking, len(kinds) + 1, size)
        if self.pool.total() + sum(each.total() for each in self.blocks) + len(kinds) > MOST_POOL:
            ends = ends[:1]
        elif not self.folded:
            known = set(self.pool).union(self.block, *self.blocks)
            ends = ends if len(known.union(kinds[place : ends[-1]])) <= MOST_KINDS else ends[:1]
        first = self.block + Counter(self._named(kinds[place : ends[0]]))
        return [first, *(Counter(self._named(kinds[end - size : end])) for end in ends[1:])]

    def _complete(self, blocks: Sequence[Counter[str]]) -> tuple[int, bool]:
        """Look at each window that a block completes, until one raises the alarm; how many blocks were looked at, and
        whether the last one did.
        """
        if self._bound(blocks):
            blocks = [_folded(each) for each in blocks]
        due = [
            (place, window)
            for place in range(len(blocks))
            for window in range(WINDOWS)
            if (self.looks + place + 1) % (1 << window) == 0 and len(self.blocks) + place + 1 >= QUARTERS << window
        ]
        evidence, raised = self._looked_at(blocks, due)
        for (_, window), each in zip(due, evidence, strict=False):
            self.evidence[window] = each
        completed = due[len(evidence) - 1][0] + 1 if raised else len(blocks)
        self.blocks, self.looks = [*self.blocks, *blocks[:completed]], self.looks + completed
        self.block = Counter()
        if raised:
            count = QUARTERS << due[len(evidence) - 1][1]
            self.alarmed, self.lately = True, self._since(count)
        for block in self.blocks[: 1 - LONGEST]:
            self.pool.update(block)
        self.blocks = self.blocks[1 - LONGEST :]
        return completed, raised

    def _looked_at(self, blocks: Sequence[Counter[str]], due: Sequence[tuple[int, int]]) -> tuple[list[float], bool]:
        """The evidence of windows, by the place of the block that completes each, up to one that raises the alarm; and
        whether the last one does.
        """
        if not due:
            return [], False
        drawn, together = self._windows(blocks, due)
        shares = [(1 << window) * (self.batch_size // QUARTERS) / WINDOWS for _, window in due]
        out = _far_out(drawn, together, np.array(shares) / self.false_alarm_every)
        found: list[float] = []
        rng, looked = None, -1
        for number, ((place, _), share) in enumerate(zip(due, shares, strict=True)):
            p = 1.0
            if out[number]:
                if rng is None or place != looked:
                    rng, looked = np.random.default_rng([self.seed, self.looks + place + 1]), place
                counted = together[number] > 0
                most = min(MOST_DRAWS, math.ceil(2 * self.false_alarm_every / share))
                p = _p_value(drawn[number, counted], together[number, counted], rng, most)
            found.append(share / p)
            if found[-1] >= self.false_alarm_every:
                return found, True
        return found, False

    def _windows(
        self, blocks: Sequence[Counter[str]], due: Sequence[tuple[int, int]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What is in each of these windows, and in all that came until then, by kind in order; (due, kinds)."""
        column = {kind: number for number, kind in enumerate(sorted(set(self.pool).union(*self.blocks, *blocks)))}
        rows = np.zeros((1 + len(self.blocks) + len(blocks), len(column)), dtype=np.int64)
        for row, counts in zip(rows, [self.pool, *self.blocks, *blocks], strict=True):
            for kind, count in counts.items():
                row[column[kind]] = count
        until = np.cumsum(rows, axis=0)
        ends = np.array([1 + len(self.blocks) + place for place, _ in due])
        begins = ends - np.array([QUARTERS << window for _, window in due])
        return until[ends] - until[begins], until[ends]

    def _since(self, count: int) -> Counter[str]:
        """What was counted since the shift seems to have begun, of the newest blocks in the window that found it."""
        newest, rng = self.blocks[-count:], np.random.default_rng([self.seed, self.looks, 1])
        return _sum(newest[-_since(self.pool + _sum(self.blocks[:-count]), newest, rng) :])

    def _bound(self, blocks: Sequence[Mapping[str, int]]) -> bool:
        """Keep the pool, and so many kinds, within what can be tested; whether these are folded from now on.

        p-values stay what they are: what a coin keeps of the pool comes in no other mix than the whole, and whether
        kinds are folded depends on pool and blocks together, not on which of them a thing is in.
        """
        rng = np.random.default_rng([self.seed, self.looks, 2])
        while self.pool.total() > MOST_POOL:
            self.pool = +Counter({kind: int(rng.binomial(count, 0.5)) for kind, count in self.pool.items()})
        if self.folded or len(set(self.pool).union(*self.blocks, *blocks)) <= MOST_KINDS:
            return False
        self.pool, self.blocks = _folded(self.pool), [_folded(each) for each in self.blocks]
        self.folded = True
        return True

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
        self.since, self.folded = state["since"], state["folded"]


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
    slight, _ = _SKIPPED[0]
    return _p_value(drawn, together, rng, most) if _far_out(drawn[None], together[None], np.array([slight]))[0] else 1.0


def _far_out(drawn: NDArray[np.int64], together: NDArray[np.int64], wanted: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Of each row, what is counted of each kind: whether `drawn` lies so far beyond what is usual of a draw from
    `together` that its p-value may be as small as is `wanted`.

    Mean and variance are those of normal draws, whose covariance is S = spread * (diag(expected) - expected expected' /
    size), weighed by W = 1 / (expected + 1): trace(W S), and 2 trace(W S W S).
    """
    size, total = drawn.sum(axis=1, keepdims=True), together.sum(axis=1, keepdims=True)
    expected = together * (size / total)
    weighed = expected / (expected + 1)
    far = ((drawn - expected) ** 2 / (expected + 1)).sum(axis=1)
    spread = ((total - size) / np.maximum(1, total - 1))[:, 0]
    cross = (weighed * expected / size).sum(axis=1)
    mean = spread * (weighed.sum(axis=1) - cross)
    variance = 2 * spread**2 * ((weighed**2 * (1 - 2 * expected / size)).sum(axis=1) + cross**2)
    (some, slight), (few, strong) = _SKIPPED
    dense = total[:, 0] >= _DENSE * (together > 0).sum(axis=1)
    errors = np.where((wanted <= few) & dense, strong, slight)
    found: NDArray[np.bool_] = (far >= mean + errors * np.sqrt(np.maximum(0.0, variance))) | (wanted > some)
    return found


def _p_value(drawn: NDArray[np.int64], together: NDArray[np.int64], rng: np.random.Generator, most: int) -> float:
    """`p_value` of what is counted by kind, where it is drawn for: `drawn` are the newest, `together` all."""
    size = int(drawn.sum())
    expected = together * (size / together.sum())
    far = _far(drawn, expected)
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
