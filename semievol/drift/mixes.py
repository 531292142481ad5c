"""Does what is counted (answers, kinds of query) come as often as it did? Asked after every batch.

Owns the two-sample test and its evidence. A batch is held against all that came before it, reference included, by
drawing as many at random from both together, again and again: without a drift the batch is one of these draws, whatever
the frequencies and however few were counted, so that the share of draws which lie as far out is a p-value that holds at
the actual sizes. Because each is made anew from everything so far, the p-values of all batches are independent
(conformal prediction); they are weighed by the e-detector of semievol.drift.falls, with bets on small p-values.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BATCH = 50
"""Things in a batch where there are few kinds."""
LARGEST = 250
DRAWS = 999
POWERS = np.array([0.1, 0.2, 0.35, 0.5, 0.7, 0.9])
"""Bets: kappa * p ** (kappa - 1) has the mean one where p is uniform."""
_BETWEEN = 2
MOST_KINDS = 500
"""A test takes time and memory by the kind: with more of them they are counted in BUCKETS."""
BUCKETS = 64
MOST_POOL = 10_000_000
"""A larger pool would make no test sharper, and numpy draws from fewer than 1e9."""


@dataclass(slots=True)
class MixDetector:
    """Told one kind after the other.

    Args:
        reference: how many make the reference, before the first batch is weighed.
        false_alarm_every: in things counted, not batches.
        batch_size: how many are weighed together; `batch_for` knows how many.
        seed: of the draws; with the number of the batch, so that a batch that is weighed again is weighed alike.
    """

    reference: int
    false_alarm_every: float
    batch_size: int
    seed: int
    seen: int = 0
    alarmed: bool = False
    pool: Counter[str] = field(default_factory=Counter)
    batch: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    evidence: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(POWERS)))
    run: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(POWERS)))
    since: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(POWERS), dtype=np.int64))
    folded: bool = False
    """Kinds are counted in buckets."""
    lately: Counter[str] = field(default_factory=Counter)
    """What was counted since the evidence of a bet between the boldest and the shyest began."""

    @property
    def phase(self) -> Literal["reference", "watching", "alarmed"]:
        if self.alarmed:
            return "alarmed"
        return "reference" if self.seen < self.reference else "watching"

    @property
    def alarm_line(self) -> float:
        """The evidence that is an alarm: a batch is one look."""
        return self.false_alarm_every / self.batch_size

    @property
    def statistic(self) -> float:
        return float(self.evidence.mean())

    @property
    def began(self) -> int:
        """After how many things the shift seems to have begun."""
        return int(self.since[int(np.argmax(self.run))])

    def add(self, kind: str) -> bool:
        """Whether this one, as the last of its batch, raises the alarm."""
        self.seen += 1
        kind = bucket(kind) if self.folded else kind
        if self.alarmed:
            return False
        if self.seen <= self.reference:
            self.pool[kind] += 1
            self.since[:] = self.seen
            return False
        self.batch[kind] += 1
        if self.batch.total() < self.batch_size:
            return False
        rng = np.random.default_rng([self.seed, self.batches])
        self._bound(rng)
        p = p_value(self.pool, self.batch, rng)
        bets = POWERS * p ** (POWERS - 1)
        self.evidence = np.minimum((1 + self.evidence) * bets, 1e300)
        self.run += np.log(bets)
        fresh = self.run <= 0
        self.run[fresh], self.since[fresh] = 0.0, self.seen
        self.lately = Counter() if fresh[_BETWEEN] else self.lately + self.batch
        self.pool += self.batch
        self.batch, self.batches = Counter(), self.batches + 1
        self.alarmed = self.statistic >= self.alarm_line
        return self.alarmed

    def _bound(self, rng: np.random.Generator) -> None:
        """Keep pool and kinds within what can be tested.

        p-values stay uniform: what a coin keeps of the pool comes in no other mix than the whole, and whether kinds are
        folded depends on pool and batch together, not on which of them a thing is in.
        """
        while self.pool.total() > MOST_POOL:
            self.pool = +Counter({kind: int(rng.binomial(count, 0.5)) for kind, count in self.pool.items()})
        if not self.folded and len({*self.pool, *self.batch}) > MOST_KINDS:
            self.pool, self.batch, self.lately = (_folded(each) for each in (self.pool, self.batch, self.lately))
            self.folded = True

    def moved(self, most: int = 5) -> list[tuple[str, float, float]]:
        """The kinds that moved most since the evidence began, with their share before and since; [0, 1] each."""
        before = self.pool - self.lately
        return moved(before, self.lately, most)

    def state(self) -> dict[str, Any]:
        """As JSON has it; `restore` reads it."""
        return {
            "seen": self.seen,
            "alarmed": self.alarmed,
            "pool": dict(self.pool),
            "batch": dict(self.batch),
            "batches": self.batches,
            "evidence": self.evidence.tolist(),
            "run": self.run.tolist(),
            "since": self.since.tolist(),
            "lately": dict(self.lately),
            "folded": self.folded,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` had said."""
        self.seen, self.alarmed, self.batches = state["seen"], state["alarmed"], state["batches"]
        self.pool, self.batch, self.lately = (Counter(state[name]) for name in ("pool", "batch", "lately"))
        self.evidence, self.run = np.array(state["evidence"], dtype=float), np.array(state["run"], dtype=float)
        self.since = np.array(state["since"], dtype=np.int64)
        self.folded = state.get("folded", False)


def batch_for(kinds: int) -> int:
    """The size of a batch for so many kinds: where most of them come less than once in it, little is seen."""
    return min(LARGEST, max(BATCH, 2 * kinds))


def bucket(kind: str) -> str:
    """The name of one of BUCKETS, by a fixed hash."""
    digest = hashlib.blake2b(kind.encode(errors="surrogatepass"), digest_size=4).digest()
    return f"#{int.from_bytes(digest) % BUCKETS}"


def _folded(counts: Mapping[str, int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for kind, count in counts.items():
        found[bucket(kind)] += count
    return found


def p_value(pool: Mapping[str, int], batch: Mapping[str, int], rng: np.random.Generator) -> float:
    """The share of random batches from both together that lie as far from them as `batch`; in [1 / (DRAWS + 1), 1].

    How far: the squared distance from what is expected of each kind, over what is expected and one more, so that kinds
    which hardly ever come do not decide alone.
    """
    kinds = sorted({*pool, *batch})
    drawn = np.array([batch.get(kind, 0) for kind in kinds])
    together = drawn + np.array([pool.get(kind, 0) for kind in kinds])
    size = int(drawn.sum())
    expected = together * (size / together.sum())
    others = rng.multivariate_hypergeometric(together, size, size=DRAWS, method="marginals")
    far = ((drawn - expected) ** 2 / (expected + 1)).sum()
    theirs = ((others - expected) ** 2 / (expected + 1)).sum(axis=1)
    return float((1 + np.count_nonzero(theirs >= far - 1e-9)) / (DRAWS + 1))


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
