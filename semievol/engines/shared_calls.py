"""Many coroutines, one call: what is asked in the same turn of the event loop goes to the generator together.

So each query can have a coroutine of its own, and equal prompts of a batch still share their prefill. Owns the
gathering, how often what is late is asked again, and answers that came while others of their query did not.
Invariant: a request that was answered is not asked again by the query that it was asked for.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, TypeVar, cast

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

    __slots__ = ("_lacking", "_replies", "future")

    def __init__(self, future: asyncio.Future[None], lacking: int, replies: list[Reply | None]) -> None:
        """`replies`: None for each of the `lacking` ones."""
        self.future = future
        self._lacking = lacking
        self._replies = replies

    def tell(self, place: int, reply: Reply) -> None:
        if self._replies[place] is not None or self.future.done():
            return
        self._replies[place] = reply
        self._lacking -= 1
        if not self._lacking:
            self.future.set_result(None)


class _Call:
    """What is asked in one turn of the event loop: the requests, and who waits for each, under which place."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop  # asked for once: it costs a system call each time
        self.requests: list[GenerationRequest] = []
        self.askers: list[tuple[_Asked, int]] = []
        self.task: asyncio.Task[None] | None = None

    def given_up(self) -> None:
        """Some may not wait any more; when nobody does, nor does the call."""
        if self.task is not None and all(asked.future.done() for asked, _ in self.askers):
            self.task.cancel()


class SharedCalls:
    """Asks a generator for many coroutines; one event loop at a time."""

    def __init__(self, generator: Generator, *, attempts: int = 2) -> None:
        """Ask nothing yet; a request that is late is asked `attempts` times in all."""
        self._generator = generator
        self._attempts = attempts
        self._next: _Call | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._kept: OrderedDict[GenerationRequest, list[Completion]] = OrderedDict()

    async def ask(self, requests: Sequence[GenerationRequest]) -> list[Reply]:
        """What became of each request, in order. Those that are late were asked again.

        Raises:
            AdapterError, ConfigError, TransientError: as Generator.answer; what was answered is kept (see `keep`).
        """
        replies: list[Reply | None] = [None] * len(requests)
        if self._kept:
            replies = [self._kept.pop(request, None) for request in requests]
        due = [place for place, reply in enumerate(replies) if reply is None]
        for _ in range(self._attempts):
            if not due:
                break
            try:
                await self._ask(requests, due, replies)
            except Exception as error:
                self.keep(requests, replies)
                # It is raised to every query of the call: none shows the others' way.
                raise error.with_traceback(None) from None
            due = [place for place, reply in enumerate(replies) if isinstance(reply, Late)]
        return cast("list[Reply]", replies)

    def keep(self, requests: Sequence[GenerationRequest], replies: Sequence[Reply | None]) -> None:
        """Remember answers of a query that could not be finished, until the same is asked again."""
        for request, reply in zip(requests, replies, strict=True):
            if isinstance(reply, list):
                self._kept[request] = reply
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    async def _ask(
        self, requests: Sequence[GenerationRequest], due: Sequence[int], replies: list[Reply | None]
    ) -> None:
        for place in due:
            replies[place] = None
        if (call := self._next) is None:
            call = self._next = _Call(asyncio.get_running_loop())
            call.loop.call_soon(self._start, call)
        asked = _Asked(call.loop.create_future(), len(due), replies)
        for place in due:
            call.requests.append(requests[place])
            call.askers.append((asked, place))
        try:
            await asked.future
        except asyncio.CancelledError:
            call.given_up()
            raise

    def _start(self, call: _Call) -> None:
        self._next = None
        call.task = call.loop.create_task(self._work(call))
        self._running.add(call.task)
        call.task.add_done_callback(self._running.discard)
        call.given_up()  # by all of them, before it has begun

    async def _work(self, call: _Call) -> None:
        def tell(place: int, reply: Reply) -> None:
            asked, at = call.askers[place]
            asked.tell(at, reply)

        try:
            await self._generator.answer(call.requests, tell)
        except Exception as error:
            for asked, _ in call.askers:
                if not asked.future.done():
                    asked.future.set_exception(error)
        finally:
            for asked, _ in call.askers:
                asked.future.cancel()


async def worked_off(
    items: Sequence[T], size: int, start: Callable[[Sequence[T]], Awaitable[Sequence[Coroutine[Any, Any, None]]]]
) -> None:
    """Give every item a task of its own; further ones begin, `size` at a time, when fewer than `size` are unfinished.

    So one that takes long delays itself alone. `start` makes the coroutines of some items.

    Raises:
        The first error of a coroutine, when all that had begun have ended; then no more were begun.
    """
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()
    failure: BaseException | None = None
    try:
        for first in range(0, len(items), size):
            while len(running) >= size and failure is None:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                failure = _first_failure(done)
            if failure is not None:
                break
            running |= {loop.create_task(each) for each in await start(items[first : first + size])}
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
