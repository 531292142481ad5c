"""Slow or dead: how long a request is waited for, and what a server is asked meanwhile.

A server that answers a health check while a request is under way is slow: what it works on is waited for, and not asked
of another one, until the patience ends. One that answers nothing at all (it was stopped, it is gone, the network drops
what it says) is dead, and its requests are another one's. Owns the waiting; which check a server takes is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from semievol.errors import LateError, TransientError

T = TypeVar("T")

TIMES = 2
"""A living server gets so many times `timeout_s` for one request."""
LOOK_S = 10.0
"""How often it is asked for a sign of life meanwhile, once a request has taken so long."""
_TRIES = 2


class SilentError(TransientError):
    """The server gave no sign of life while a request was with it."""


class Signs:
    """Signs of life of servers; those who ask for the same server at the same time share one question."""

    def __init__(self, check: Callable[[Any], Awaitable[None]]) -> None:
        """`check` raises TransientError where the server gives no sign of life within a few seconds."""
        self._check = check
        self._asked: dict[str, asyncio.Task[str | None]] = {}

    async def silence(self, name: str, server: Any) -> str | None:
        """Why the server is taken for dead; None: it lives. A single answer that is lost does not kill it."""
        task = self._asked.get(name)
        if task is None:
            task = self._asked[name] = asyncio.create_task(self._ask(server), name=f"sign-of-life-{name}")
            task.add_done_callback(lambda _: self._asked.pop(name, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        tasks = list(self._asked.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, server: Any) -> str | None:
        said = ""
        for _ in range(_TRIES):
            try:
                await self._check(server)
            except TransientError as error:
                said = str(error)
            else:
                return None
        return said


async def waited_for(
    work: Coroutine[Any, Any, T],
    silence: Callable[[], Awaitable[str | None]] | None,
    timeout_s: float,
    slow: Callable[[], None],
) -> T:
    """The result of `work`, a request that was just sent.

    Args:
        work: is cancelled when it is not waited for any more.
        silence: asks for a sign of life; None: there is no other server, so that nothing is won by giving it up.
        timeout_s: after this `slow` is told, once; after TIMES as long it is late.
        slow: see there.

    Raises:
        LateError: the time is up.
        SilentError: the server gave no sign of life.
    """
    loop = asyncio.get_running_loop()
    began, told = loop.time(), False
    task = asyncio.ensure_future(work)
    try:
        while True:
            passed = loop.time() - began
            if passed >= timeout_s and not told:
                told = True
                slow()
            if passed >= TIMES * timeout_s:
                raise LateError(f"no answer within {TIMES * timeout_s:.0f} s from a server that is alive")
            next_s = TIMES * timeout_s - passed if told else timeout_s - passed
            done, _ = await asyncio.wait({task}, timeout=min(next_s, LOOK_S))
            if done:
                return task.result()
            why = None if silence is None else await silence()
            if task.done():
                return task.result()
            if why is not None:
                raise SilentError(why)
    finally:
        if not task.done():
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
