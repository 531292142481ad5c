"""How long ago something was, when the clock that wrote it down may have been set back, or stand on another machine.

Owns the measure alone. Invariant: an age grows at least as fast as this process's own time since the moment was first
seen, so that nothing is waited for for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Moment:
    """The last time that something happened, as the state has it."""

    def __init__(self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._seen: tuple[float, float] | None = None  # what the state says, and when that was first read

    def age_s(self, at: float) -> float:
        """Seconds since `at` (UTC seconds); never below zero."""
        now = self._monotonic()
        if self._seen is None or self._seen[0] != at:
            self._seen = (at, now)
        return max(self._clock() - at, now - self._seen[1])
