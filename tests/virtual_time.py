"""An event loop whose clock jumps to the next timer as soon as nothing else is left to do.

Sleeps, timeouts and polls of the code under test take no time, in the order in which they would come; what it gives to
a thread is done on the loop, in turn with all the rest, so that no timer overtakes a database and every run is alike.
Owns the loop's clock alone: `time.time` and `time.monotonic` go on as ever; code that reads them is handed another.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

SOCKETS_S = 0.001
"""Real seconds that open sockets get before the clock jumps: what one end wrote has then come to the other."""


class _Jumping(selectors.DefaultSelector):
    """Waits for nothing that the clock brings."""

    def __init__(self, sockets_s: float) -> None:
        super().__init__()
        self.elapsed_s = 0.0
        self._sockets_s = sockets_s
        self._own = 0

    def count_own(self) -> None:
        """What is registered by now is the loop's own; all that comes later is a socket."""
        self._own = len(self.get_map())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        events = super().select(self._sockets_s if len(self.get_map()) > self._own else 0)
        if not events:
            self.elapsed_s += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Begins at 0 seconds.

    Args:
        sockets_s: real seconds that open sockets get before the clock jumps.
    """

    def __init__(self, sockets_s: float = SOCKETS_S) -> None:
        self._jumping = _Jumping(sockets_s)
        super().__init__(self._jumping)
        self._jumping.count_own()

    def time(self) -> float:
        return self._jumping.elapsed_s

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = self.create_future()
        self.call_soon(_do, answer, func, args)
        return answer


def _do(answer: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """As a thread would: also when nobody waits for the answer any more."""
    try:
        result = func(*args)
    except Exception as error:
        if not answer.cancelled():
            answer.set_exception(error)
    else:
        if not answer.cancelled():
            answer.set_result(result)
