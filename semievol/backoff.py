"""Trying again what failed for the moment: how long is waited in between, and when it is given up.

Waits double under a ceiling and are drawn with jitter, which keeps many that lost the same server from returning to it
in one instant; where the error says for how long it wants to be left alone (`wait_s`), that is kept. Owns the waits and
the loop (tenacity's). Owns not which errors are worth another attempt: the caller says so.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import tenacity

from semievol.errors import TransientError

T = TypeVar("T")
Retried = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""Which errors are tried again."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long is waited after the first, the second ... failure in a row."""

    first_s: float
    ceiling_s: float
    factor: float = 2.0
    jitter: tuple[float, float] = (1.0, 1.0)
    """Between these shares of the wait it is drawn evenly; (1, 1): not drawn."""

    def bound_s(self, failures: int) -> float:
        """The wait after so many failures in a row, before it is drawn."""
        if self.first_s <= 0:
            return 0.0
        try:
            return min(self.ceiling_s, self.first_s * float(self.factor) ** (failures - 1))
        except OverflowError:
            return self.ceiling_s

    def wait_s(self, failures: int, asked_s: float = 0.0, draw: Callable[[], float] = random.random) -> float:
        """The wait after so many failures in a row.

        Args:
            failures: 1 or more.
            asked_s: what the other side asks for; never less is waited.
            draw: a number from 0 to 1.
        """
        low, high = self.jitter
        return max(asked_s, self.bound_s(failures) * (low + (high - low) * draw()))

    async def call(
        self,
        operation: Callable[[], Awaitable[T]],
        *,
        retry_on: Retried = TransientError,
        patience_s: float | None = None,
        heed: bool = True,
        failed: Callable[[Exception], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] | None = None,
        clock: Callable[[], float] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> T:
        """What `operation` returns, called until it does.

        Args:
            operation: is called again after each error of `retry_on`.
            retry_on: see there.
            patience_s: no wait is begun that ends later than so long after the first failure; 0: it is called once,
                None: it is never given up. A call that takes long uses up no patience by itself.
            heed: keep the wait that an error asks for; off where another may answer meanwhile.
            failed: hears of each error after which it is tried again, before the wait.
            sleep: waits; what it raises ends the call. None: asyncio's.
            clock: seconds that never go back. None: the event loop's.
            draw: a number from 0 to 1, for the jitter.

        Raises:
            The last error.
        """
        first: Exception | None = None
        try:
            return await operation()  # nearly always the end of it, and then not worth a loop of its own
        except Exception as error:
            first = error

        async def attempt() -> T:  # a function that returns a coroutine is not awaited there, only a coroutine function
            nonlocal first
            if first is not None:
                error, first = first, None
                raise error
            return await operation()

        async def wait(seconds: float) -> None:
            await (sleep or asyncio.sleep)(seconds)

        limits = self._limits(retry_on, patience_s, heed, failed, clock or asyncio.get_running_loop().time, draw)
        return await tenacity.AsyncRetrying(sleep=wait, **limits)(attempt)

    def call_blocking(
        self,
        operation: Callable[[], T],
        *,
        retry_on: Retried = TransientError,
        patience_s: float | None = None,
        heed: bool = True,
        failed: Callable[[Exception], None] | None = None,
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> T:
        """As `call`, for code that may block."""
        limits = self._limits(retry_on, patience_s, heed, failed, clock, draw)
        return tenacity.Retrying(sleep=sleep or time.sleep, **limits)(operation)

    def _limits(
        self,
        retry_on: Retried,
        patience_s: float | None,
        heed: bool,
        failed: Callable[[Exception], None] | None,
        clock: Callable[[], float],
        draw: Callable[[], float],
    ) -> dict[str, Any]:
        """What tenacity takes, of one call: it is told of each failure, asks for the wait, then whether to stop."""
        first_failed_at: float | None = None

        def again(error: BaseException) -> bool:
            if not isinstance(error, Exception):  # a cancelled task, Ctrl-C
                return False
            return isinstance(error, retry_on) if isinstance(retry_on, type | tuple) else retry_on(error)

        def wait(state: tenacity.RetryCallState) -> float:
            asked_s = getattr(_error(state), "wait_s", 0.0) if heed else 0.0
            return self.wait_s(state.attempt_number, asked_s, draw)

        def stop(state: tenacity.RetryCallState) -> bool:
            nonlocal first_failed_at
            if first_failed_at is None:
                first_failed_at = clock()
            return patience_s is not None and clock() + state.upcoming_sleep >= first_failed_at + patience_s

        def tell(state: tenacity.RetryCallState) -> None:
            if failed is not None and isinstance(error := _error(state), Exception):
                failed(error)

        return {
            "retry": tenacity.retry_if_exception(again),
            "wait": wait,
            "stop": stop,
            "before_sleep": tell,
            "reraise": True,
        }


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()
