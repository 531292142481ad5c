"""The limit of a server found by trying, against servers whose speed is a function of how much they work on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from semievol.engines.concurrency import FIRST, Limit, Line, Sent
from semievol.errors import TransientError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Simulated:
    """A server that answers `rate(running)` requests a second, in order of arrival; there is always one more to ask.

    A request that takes longer than `timeout_s` is told as overload once, as patience does, and answered later all the
    same.
    """

    def __init__(self, most: int, rate: Callable[[int], float], timeout_s: float = 120.0) -> None:
        self.clock = Clock()
        self.limit = Limit(most, clock=self.clock)
        self.rate = rate
        self.timeout_s = timeout_s
        self.answered = 0
        self._with_it: deque[Sent] = deque()  # oldest first
        self._told: set[int] = set()

    def run(self, seconds: float) -> float:
        """Answers a second in so many seconds."""
        end, before = self.clock.now + seconds, self.answered
        while self.clock.now < end:
            while self.limit.free:
                self._with_it.append(self.limit.begin())
            self.clock.now += 1.0 / self.rate(max(1, len(self._with_it)))
            for sent in self._with_it:
                if self.clock.now - sent.at > self.timeout_s and id(sent) not in self._told:
                    self._told.add(id(sent))
                    self.limit.overloaded(sent)
            if self._with_it:
                sent = self._with_it.popleft()
                self._told.discard(id(sent))
                self.limit.answered(sent)
                self.limit.end()
                self.answered += 1
        return (self.answered - before) / seconds


def batching(full: float, at: int) -> Callable[[int], float]:
    """Ever faster up to `at` requests at a time."""
    return lambda running: full * min(1.0, running / at)


def test_it_begins_low_and_reaches_the_whole_speed_within_a_minute() -> None:
    server = Simulated(32, batching(2.0, at=16))
    assert server.limit.places == FIRST
    server.run(60.0)
    assert server.run(60.0) >= 0.95 * 2.0


def test_it_never_asks_more_than_it_may() -> None:
    server = Simulated(6, batching(50.0, at=64))
    server.run(60.0)
    assert server.limit.places == 6


def test_on_a_slow_server_requests_do_not_pile_up_until_all_are_late() -> None:
    server = Simulated(32, lambda running: 0.05)
    server.run(4 * 3600.0)
    longest_s = server.limit.places / 0.05
    assert longest_s < 2 * server.timeout_s
    assert server.run(3600.0) == pytest.approx(0.05, rel=0.02)


def test_when_the_brake_is_off_the_whole_speed_is_back_within_a_minute() -> None:
    brake = [0.1]
    fast = batching(6.0, at=16)
    server = Simulated(32, lambda running: brake[0] * fast(running), timeout_s=20.0)
    server.run(1800.0)
    brake[0] = 1.0
    server.run(60.0)
    assert server.run(30.0) >= 0.95 * 6.0


def test_where_more_at_a_time_make_it_slower_it_stays_near_the_best() -> None:
    def thrashing(running: int) -> float:
        return 10.0 * min(1.0, running / 8) * (1.0 if running <= 12 else (12 / running) ** 1.5)

    assert thrashing(64) < 1.0  # what all at a time would come to
    server = Simulated(64, thrashing)
    server.run(600.0)
    assert server.run(600.0) >= 0.8 * 10.0


def test_answers_that_come_in_bursts_are_not_taken_for_speed() -> None:
    clock = Clock()
    limit = Limit(16, clock=clock)
    for _ in range(40):  # whatever it has takes 0.2 s, and all of it comes in one moment
        batch = [limit.begin() for _ in range(limit.places)]
        clock.now += 0.2
        for sent in batch:
            limit.answered(sent)
            limit.end()
            limit.running += 1  # its place is filled at once
        limit.running -= len(batch)
    assert limit.places == 16


def test_an_overload_halves_once_for_all_that_were_sent_before_it() -> None:
    clock = Clock()
    limit = Limit(32, clock=clock)
    limit.places = 16
    sent = [limit.begin() for _ in range(16)]
    clock.now = 10.0
    for each in sent:
        limit.overloaded(each)
    assert limit.places == 8
    later = limit.begin()
    clock.now = 20.0
    limit.overloaded(later)
    assert limit.places == 4


def test_a_wait_that_the_server_names_is_kept() -> None:
    clock = Clock()
    limit = Limit(32, clock=clock)
    limit.overloaded(limit.begin(), wait_s=30.0)
    limit.end()
    assert not limit.free
    clock.now = 30.0
    assert limit.free
    assert limit.places == FIRST // 2


def test_a_limit_never_falls_below_one() -> None:
    clock = Clock()
    limit = Limit(4, clock=clock)
    for _ in range(5):
        clock.now += 1.0
        limit.overloaded(limit.begin())
        limit.end()
    assert limit.places == 1


def test_without_more_to_send_the_limit_stays_where_it_is() -> None:
    limit = Limit(32, clock=Clock())
    for _ in range(100):
        limit.answered(limit.begin())
        limit.end()
    assert limit.places == FIRST


# --- the line -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    name: str


class Pool:
    """Lends the first server that is not full, else the first."""

    def __init__(self, *names: str) -> None:
        self.servers = [Server(name) for name in names]
        self.lent: list[str] = []

    @asynccontextmanager
    async def lend(self, full: Collection[str]) -> AsyncIterator[Server]:
        if not self.servers:
            raise TransientError("nobody is there")
        server = next((each for each in self.servers if each.name not in full), self.servers[0])
        self.lent.append(server.name)
        yield server


async def settled() -> None:
    """Let every task go as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_request_that_waits_is_with_no_server_and_goes_to_whichever_is_free_first() -> None:
    line, pool = Line(2), Pool("a", "b")
    release = {number: asyncio.Event() for number in range(6)}
    at: dict[int, str] = {}

    async def one(number: int) -> None:
        async with line.turn(pool.lend) as (server, _):
            at[number] = server.name
            await release[number].wait()

    tasks = [asyncio.create_task(one(number)) for number in range(6)]
    await settled()
    assert [at[number] for number in range(4)] == ["a", "a", "b", "b"]
    assert len(at) == 4
    release[2].set()
    await settled()
    assert at[4] == "b"  # who came first goes first, and not to the server that it once was shown
    for event in release.values():
        event.set()
    await asyncio.gather(*tasks)
    assert (line.limit("a").running, line.limit("b").running) == (0, 0)


async def test_what_the_pool_raises_lets_the_next_one_try() -> None:
    line, pool = Line(2), Pool()
    with pytest.raises(TransientError):
        async with line.turn(pool.lend):
            pass
    pool.servers = [Server("a")]
    async with line.turn(pool.lend) as (server, _):
        assert server.name == "a"


async def test_a_request_that_is_given_up_in_the_line_leaves_no_gap() -> None:
    line, pool = Line(1), Pool("a")
    async with line.turn(pool.lend):
        waiting = asyncio.create_task(anext(_entered(line, pool)))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(5.0), line.turn(pool.lend) as (server, _):
        assert server.name == "a"


async def _entered(line: Line, pool: Pool, unwanted: Collection[str] = ()) -> AsyncGenerator[Server]:
    async with line.turn(pool.lend, unwanted) as (server, _):
        yield server


async def test_a_server_that_failed_a_request_gets_it_again_only_while_no_other_one_works() -> None:
    line, pool = Line(1), Pool("a", "b")
    pool.servers.reverse()  # b is chosen where nothing speaks against it
    async with line.turn(pool.lend, unwanted={"a"}) as (server, _):
        assert server.name == "b"
        entered = _entered(line, pool, unwanted={"a"})
        again = asyncio.create_task(anext(entered))
        await settled()
        assert not again.done()
    assert (await again).name == "b"
    await entered.aclose()
    async with line.turn(pool.lend, unwanted={"a", "b"}) as (server, _):
        assert server.name == "b"
