"""Trying again until the stop, and who is failing meanwhile.

Owns the record of what does not answer; the waits are semievol.backoff's. Which errors are worth another attempt is
said by their type: `TransientError` is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from semievol.backoff import Backoff
from semievol.errors import TransientError
from semievold.config.streams import RetrySettings

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The stop came while an operation waited for its next attempt; its work is delivered again after the start."""


class Pulse:
    """Whether a loop still comes around: one that hangs in a call looks well from outside, and nothing moves."""

    def __init__(self, what: str, limit_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._limit_s = limit_s
        self._monotonic = monotonic
        self._last: float | None = None

    def beat(self) -> None:
        self._last = self._monotonic()

    def rest(self) -> None:
        """There is nothing to come around for."""
        self._last = None

    @property
    def stuck(self) -> str | None:
        """Since when nothing has moved; None: it moves, or has not begun."""
        if self._last is None or (age_s := self._monotonic() - self._last) < self._limit_s:
            return None
        return f"{self._what} has not moved for {age_s:.0f} s"


class Health:
    """Which components do not answer at the moment, and how often that made us wait."""

    def __init__(self) -> None:
        self.retries = 0
        self._failing: dict[str, str] = {}

    @property
    def degraded(self) -> str | None:
        """What does not answer, with the last error of each; None: everything does."""
        return "; ".join(f"{what}: {error}" for what, error in self._failing.items()) or None

    def failed(self, what: str, error: Exception) -> None:
        self.retries += 1
        if what not in self._failing:
            logger.warning("%s does not answer, trying again until it does: %s", what, error)
        self._failing[what] = str(error)

    def answered(self, what: str) -> None:
        if self._failing.pop(what, None) is not None:
            logger.info("%s answers again", what)


def backoff(settings: RetrySettings) -> Backoff:
    """The waits that the settings describe."""
    return Backoff(settings.initial_s, settings.max_s, jitter=(0.1, 1.0))


async def until_answered(
    what: str,
    operation: Callable[[], Awaitable[T]],
    settings: RetrySettings,
    health: Health,
    stop: asyncio.Event,
    retry_on: tuple[type[Exception], ...] = (TransientError,),
) -> T:
    """Call `operation` until it returns, waiting longer after every failure.

    Raises:
        Stopped: `stop` was set when the next attempt would have had to wait.
    """

    async def wait(seconds: float) -> None:
        if await set_within(stop, seconds):
            raise Stopped

    result = await backoff(settings).call(
        operation, retry_on=retry_on, failed=lambda error: health.failed(what, error), sleep=wait
    )
    health.answered(what)
    return result


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most so long; whether it is set."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
