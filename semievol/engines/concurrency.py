"""How many requests a server gets at a time: as many as it manages, which is found by trying.

Additive increase, multiplicative decrease (Chiu and Jain, 1989): one more, step by step, while answers come at an
undiminished rate; half as many when the server says or shows that it has too much. Owns the limit of each server and
the line in which requests wait for a free place. Owns neither the choice among servers nor what is sent.
Invariants: a server never works on more than its limit; who waits is served in the order of arrival; a request that
waits here is with no server, so its time has not begun.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import NamedTuple, Protocol, TypeVar

FIRST = 4
"""What a server gets before anything is known of it."""
_LEAST_SPAN = 2
_STEPS_A_ROUND = 4
"""While all is well the limit grows by a quarter in the time in which every place is filled anew."""
_RISING = 1.15
"""As long as a round brings so many times the rate of the one before, the limit may double in that time."""
_DIMINISHED = 0.8
"""A rate below this share of the best one is no accident: a round has at least as many answers as there are places."""
_HELD_ROUNDS = 6
_LOOK_S = 0.25


class Sent(NamedTuple):
    """When a request was sent, and how many the server then had, itself included."""

    at: float
    beside: int


class Limit:
    """How many requests one server gets at a time. Pure: it is told what happens, and reads the clock it is given."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin low.

        Args:
            most: never more than this.
            clock: seconds that never go back.
        """
        self.most = most
        self.places = min(FIRST, most)
        self.running = 0
        self._clock = clock
        self._cut_at = -math.inf
        self._paused_until = -math.inf
        self._answers = 0  # since the last step up
        self._held = 0  # answers during which there is no step up
        self._rising = True  # more places have brought more so far
        self._best = 0.0  # rate, and the places at which it was
        self._best_places = 0
        self._round = 0  # answers of this round; the seconds that they took; with how many each was sent
        self._took_s = 0.0
        self._beside = 0
        self._round_places = 0
        self._passed_over = 0  # answers that say nothing about the present places

    @property
    def free(self) -> bool:
        """Whether a request may be sent now."""
        return self.running < self.places and self._clock() >= self._paused_until

    def begin(self) -> Sent:
        """A request is sent; what the calls that say what became of it are told."""
        self.running += 1
        return Sent(self._clock(), self.running)

    def end(self) -> None:
        """It is not with the server any more, however it ended."""
        self.running -= 1

    def answered(self, sent: Sent) -> None:
        """A request that is still counted was answered."""
        if self.running < self.places:  # there was nothing more to send: this says nothing about more places
            self._begin_round()
            return
        self._measure(sent)
        self._held = max(0, self._held - 1)
        self._answers += 1
        span = 1 if self._rising else max(_LEAST_SPAN, self.places // _STEPS_A_ROUND)
        if self._held == 0 and self._answers >= span:
            self._answers = 0
            self.places = min(self.most, self.places + 1)

    def overloaded(self, sent: Sent, wait_s: float = 0.0) -> None:
        """The server refused for its load, or was late with a request.

        Those that were sent before the last cut say nothing new. `wait_s`: nothing is sent for so long.
        """
        now = self._clock()
        self._paused_until = max(self._paused_until, now + wait_s)
        if sent.at < self._cut_at:
            return
        self._cut_at = now
        self.places = max(1, self.places // 2)
        self._start_over(rising=False)

    def restart(self) -> None:
        """The server was away, and is as if nothing were known of it."""
        self.places = min(self.places, FIRST)
        self._start_over(rising=True)

    def _start_over(self, *, rising: bool) -> None:
        self._rising = rising
        self._answers, self._held, self._best, self._best_places = 0, 0, 0.0, 0
        self._begin_round()

    def _begin_round(self) -> None:
        self._round, self._took_s, self._beside, self._round_places = 0, 0.0, 0, self.places

    def _measure(self, sent: Sent) -> None:
        """At the end of a round, the rate beside the best one: where it fell, back to the places that it had there.

        Where it fell with no more places than these, it is the server that became slower.
        """
        if self._passed_over > 0:
            self._passed_over -= 1
            return
        self._round += 1
        self._took_s += self._clock() - sent.at
        self._beside += sent.beside
        if self._round < max(2 * _STEPS_A_ROUND, self._round_places) or self._took_s <= 0.0:
            return
        # Little's law: answers a second are those that a server has at a time by the seconds that each takes. Counted
        # by the clock alone, answers that come in bursts, as of a batch, would make a few of them look like many.
        rate = self._beside / self._took_s
        if self._best > 0:
            self._rising = rate >= _RISING * self._best
        if rate >= self._best or self._round_places <= self._best_places:
            self._best, self._best_places = rate, self._round_places
        elif rate < _DIMINISHED * self._best:
            self.places = self._best_places
            self._held = _HELD_ROUNDS * self.places
            self._passed_over = self.running  # they were sent when there were more
        self._begin_round()


class Named(Protocol):
    """A server, known by its name."""

    @property
    def name(self) -> str: ...


S = TypeVar("S", bound=Named)
Lend = Callable[[Collection[str]], AbstractAsyncContextManager[S]]
"""Chooses a server; one in the given names, which are full, only if it must be."""


class Turn:
    """A request's place at a server; told how the server took it."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._sent = limit.begin()

    def answered(self) -> None:
        self._limit.answered(self._sent)

    def overloaded(self, wait_s: float = 0.0) -> None:
        self._limit.overloaded(self._sent, wait_s)


class Line:
    """The line in front of several servers; one event loop."""

    def __init__(self, most: int) -> None:
        """Know no server yet; each gets at most `most` requests at a time."""
        self._most = most
        self._limits: dict[str, Limit] = {}
        self._first = asyncio.Lock()
        self._freed = asyncio.Event()

    def limit(self, name: str) -> Limit:
        """The limit of a server."""
        if name not in self._limits:
            self._limits[name] = Limit(self._most)
        return self._limits[name]

    @asynccontextmanager
    async def turn(self, lend: Lend[S], unwanted: Collection[str] = ()) -> AsyncIterator[tuple[S, Turn]]:
        """Wait for a place at the server that `lend` chooses, and hold it in the block.

        One of the `unwanted` is taken only while no other one works, for whose place could be waited.

        Raises:
            Whatever `lend` raises.
        """
        async with AsyncExitStack() as stack:
            server, turn, limit = await self._begun(stack, lend, unwanted)
            try:
                yield server, turn
            finally:
                limit.end()
                self._freed.set()

    async def _begun(self, stack: AsyncExitStack, lend: Lend[S], unwanted: Collection[str]) -> tuple[S, Turn, Limit]:
        async with self._first:  # whoever came first chooses; the others wait for the lock, in order
            while True:
                self._freed.clear()
                full = {name for name, limit in self._limits.items() if not limit.free}
                async with AsyncExitStack() as attempt:
                    server = await attempt.enter_async_context(lend(full))
                    limit = self.limit(server.name)
                    if limit.free and not (server.name in unwanted and full.difference(unwanted)):
                        stack.push_async_exit(attempt.pop_all())
                        return server, Turn(limit), limit
                # A server that came back, or whose pause is over, tells nobody.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._freed.wait()
