"""A server that was slow, or refused most of what it was asked, gets all that it manages within a minute of being well.

Event by event, in the time of a clock of its own; the same on real servers is bench/slow_server.py.
"""

from __future__ import annotations

import heapq
import itertools
import random
from bisect import bisect
from dataclasses import dataclass, field

import pytest

from semievol.engines.concurrency import Limit, Sent

SLOWER = 10
BRAKED_S = 400.0
SEEN_S = 90.0
SHARE = 0.8
FULL_SPEED_WITHIN_S = 60.0


@dataclass
class Braked:
    """A server that works on `places` requests at a time, `takes_s` on each, and for BRAKED_S at a tenth of that speed.

    The brake: `rate`, so many fewer answers a second, each later by so much; `latency`, each takes so many times
    longer; `refusals`, what is more than a tenth of the places is refused, with the wait of `retry_after_s`.
    """

    brake: str
    takes_s: float
    places: int
    most: int = 32
    late_s: float = 120.0
    retry_after_s: float = 0.0
    now: float = 0.0
    answered_at: list[float] = field(default_factory=list)
    places_when_released: int = 0

    def __post_init__(self) -> None:
        self._limit = Limit(self.most, clock=lambda: self.now)
        self._full = min(self.most, self.places) / self.takes_s
        self._with_it: dict[int, Sent] = {}
        self._events: list[tuple[float, int, str, int]] = []
        self._numbers = itertools.count()
        self._turn_at = 0.0
        self._random = random.Random(1)

    def run(self) -> float:
        """Seconds after the release until SHARE of the whole speed was first there, over two answers' time."""
        self._at(BRAKED_S, "released")
        for second in range(int(BRAKED_S + SEEN_S)):
            self._at(second + 1.0, "look")
        end = BRAKED_S + SEEN_S
        self._send()
        while self._events and self.now <= end:
            self.now, _, what, number = heapq.heappop(self._events)
            self._happened(what, number)
            self._send()
        window_s = max(5.0, 2 * self.takes_s)
        for tenths in range(int(10 * (SEEN_S - window_s))):
            begin = BRAKED_S + tenths / 10
            if (
                bisect(self.answered_at, begin + window_s) - bisect(self.answered_at, begin)
                >= SHARE * self._full * window_s
            ):
                return begin + window_s - BRAKED_S
        return float("inf")

    def _at(self, time: float, what: str, number: int = 0) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), what, number))

    def _happened(self, what: str, number: int) -> None:
        if what == "released":
            self.places_when_released = self._limit.places
            for waiting in self._with_it:
                self._at(self.now + self.takes_s, "answered", waiting)
        elif number in self._with_it and what == "late":
            self._limit.overloaded(self._with_it[number])
        elif number in self._with_it:
            sent = self._with_it.pop(number)
            if what == "refused":
                self._limit.overloaded(sent, self.retry_after_s)
            else:
                self._limit.answered(sent)
                self.answered_at.append(self.now)
            self._limit.end()

    def _send(self) -> None:
        while self._limit.free:
            number, sent = next(self._numbers), self._limit.begin()
            self._with_it[number] = sent
            beside = max(1.0, len(self._with_it) / self.places)
            self._at(self.now + self.late_s, "late", number)
            if self.now >= BRAKED_S:
                self._at(self.now + self.takes_s * beside * self._random.uniform(0.7, 1.3), "answered", number)
            elif self.brake == "refusals" and len(self._with_it) > max(1, self.places // SLOWER):
                self._at(self.now + 0.01, "refused", number)
            elif self.brake == "latency":
                self._at(self.now + SLOWER * self.takes_s * beside, "answered", number)
            else:
                self._turn_at = max(self.now, self._turn_at) + SLOWER / self._full
                self._at(self._turn_at + (SLOWER - 1) * self.takes_s, "answered", number)


@pytest.mark.parametrize("takes_s", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("places", [8, 32, 64])
@pytest.mark.parametrize("brake", ["rate", "latency", "refusals"])
def test_the_whole_speed_is_back_within_a_minute(brake: str, places: int, takes_s: float) -> None:
    server = Braked(brake, takes_s, places, retry_after_s=5.0)
    assert server.run() <= FULL_SPEED_WITHIN_S
    if brake == "refusals":  # it was braked indeed
        assert server.places_when_released <= max(2, places // 8)


def test_requests_that_were_late_under_the_brake_cost_no_more_than_a_minute() -> None:
    server = Braked("rate", 1.0, 32, most=128, late_s=15.0)
    assert server.run() <= FULL_SPEED_WITHIN_S
    assert server.places_when_released < 64  # half of it, at least once
