"""Many coroutines, one call: what is asked in the same turn of the event loop goes to the generator together.

So each query can have a coroutine of its own, and equal prompts of a batch still share their prefill. Owns the
gathering, how often what is late is asked again, and answers that came while others of their query did not.
Invariant: a request that was answered is not asked again by the query that it was asked for.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, TypeVar

from semievol.protocols import Generator
from semievol.types import Completion, GenerationRequest, Late, Reply

T = TypeVar("T")
R = TypeVar("R")

_KEPT = 4096


class Gathered(Generic[T, R]):
    """Lets coroutines do in one `work` what they want done in the same turn of the event loop."""

    def __init__(self, work: Callable[[list[T]], Awaitable[Sequence[R]]]) -> None:
        """`work` gives one result an item, in order."""
        self._work = work
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, item: T) -> R:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._start)
        return await future

    def _start(self) -> None:
        waiting, self._waiting = self._waiting, []
        task = asyncio.create_task(self._do(waiting))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _do(self, waiting: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._work([item for item, _ in waiting])
        except Exception as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in zip(waiting, results, strict=True):
                if not future.done():
                    future.set_result(result)


class _Asked:
    """Requests that one coroutine waits for together: one future tells it, however many they are."""

    __slots__ = ("_open", "_replies", "future")

    def __init__(self, places: Iterable[int], replies: dict[int, Reply]) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open = set(places)
        self._replies = replies

    def tell(self, place: int, reply: Reply) -> None:
        if place not in self._open or self.future.done():
            return
        self._open.remove(place)
        self._replies[place] = reply
        if not self._open:
            self.future.set_result(None)


class SharedCalls:
    """Asks a generator for many coroutines; one event loop at a time."""

    def __init__(self, generator: Generator, *, attempts: int = 2) -> None:
        """Ask nothing yet; a request that is late is asked `attempts` times in all."""
        self._generator = generator
        self._attempts = attempts
        self._waiting: list[tuple[GenerationRequest, _Asked, int]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._kept: OrderedDict[GenerationRequest, list[Completion]] = OrderedDict()

    async def ask(self, requests: Sequence[GenerationRequest]) -> list[Reply]:
        """What became of each request, in order. Those that are late were asked again.

        Raises:
            AdapterError, ConfigError, TransientError: as Generator.answer; what was answered is kept (see `keep`).
        """
        replies: dict[int, Reply] = {}
        if self._kept:
            for place, request in enumerate(requests):
                if (known := self._kept.pop(request, None)) is not None:
                    replies[place] = known
        due = [place for place in range(len(requests)) if place not in replies]
        for _ in range(self._attempts):
            if not due:
                break
            try:
                await self._ask(requests, due, replies)
            except Exception as error:
                self.keep([requests[place] for place in replies], list(replies.values()))
                # It is raised to every query of the call: none shows the others' way.
                raise error.with_traceback(None) from None
            due = [place for place in due if isinstance(replies[place], Late)]
        return [replies[place] for place in range(len(requests))]

    def keep(self, requests: Sequence[GenerationRequest], replies: Sequence[Reply]) -> None:
        """Remember answers of a query that could not be finished, until the same is asked again."""
        for request, reply in zip(requests, replies, strict=True):
            if isinstance(reply, list):
                self._kept[request] = reply
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    async def _ask(self, requests: Sequence[GenerationRequest], due: list[int], replies: dict[int, Reply]) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._start)
        asked = _Asked(due, replies)
        self._waiting += [(requests[place], asked, place) for place in due]
        await asked.future

    def _start(self) -> None:
        waiting, self._waiting = self._waiting, []
        task = asyncio.create_task(self._call(waiting))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        askers = {asked for _, asked, _ in waiting}
        open_ones = len(askers)

        def one_is_done(future: asyncio.Future[None]) -> None:
            nonlocal open_ones
            open_ones -= 1
            if open_ones == 0 and future.cancelled():  # nobody waits any more
                task.cancel()

        for asked in askers:
            asked.future.add_done_callback(one_is_done)

    async def _call(self, waiting: list[tuple[GenerationRequest, _Asked, int]]) -> None:
        def tell(place: int, reply: Reply) -> None:
            _, asked, at = waiting[place]
            asked.tell(at, reply)

        try:
            await self._generator.answer([request for request, _, _ in waiting], tell)
        except Exception as error:
            for _, asked, _ in waiting:
                if not asked.future.done():
                    asked.future.set_exception(error)
        finally:
            for _, asked, _ in waiting:
                asked.future.cancel()


async def worked_off(
    items: Sequence[T], size: int, start: Callable[[Sequence[T]], Awaitable[Sequence[Coroutine[Any, Any, None]]]]
) -> None:
    """Give every item a task of its own; further ones begin, `size` at a time, when fewer than `size` are unfinished.

    So one that takes long delays itself alone. `start` makes the coroutines of some items.

    Raises:
        The first error of a coroutine, when all that had begun have ended; then no more were begun.
    """
    running: set[asyncio.Task[None]] = set()
    failure: BaseException | None = None
    try:
        for first in range(0, len(items), size):
            while len(running) >= size and failure is None:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                failure = _first_failure(done)
            if failure is not None:
                break
            running |= {asyncio.create_task(each) for each in await start(items[first : first + size])}
        if running:
            done, running = await asyncio.wait(running)
            later = _first_failure(done)
            failure = failure or later
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if failure is not None:
        raise failure


def _first_failure(tasks: Iterable[asyncio.Task[None]]) -> BaseException | None:
    """Of tasks that have ended; all of them are looked at, for an error that nobody sees is reported as lost."""
    failures = [error for error in (task.exception() for task in tasks) if error is not None]
    return failures[0] if failures else None
