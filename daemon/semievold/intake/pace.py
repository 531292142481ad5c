"""How fast queries get their answers, and how many wait: the line that tells a slow fleet from one that stands still.

Pure: it is told what became durable, and says when there is something to say. Owns no metric and no clock of its own.
Invariant: the rate counts what is stored, never what was only asked or answered.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 60.0
"""The rate is that of so many seconds; also how often it is said while there is work."""


class Pace:
    """The pace of one intake."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stored: deque[tuple[float, int]] = deque()
        self._began_at: float | None = None  # of the work that is going on
        self._said_at = 0.0

    def stored(self, count: int) -> None:
        """So many labels became durable."""
        self._stored.append((self._clock(), count))

    def a_minute(self) -> float:
        """Answers a minute: over the last WINDOW_S, or since the work began where that is less."""
        now = self._clock()
        while self._stored and self._stored[0][0] <= now - WINDOW_S:
            self._stored.popleft()
        count = sum(each for _, each in self._stored)
        if self._began_at is None:
            return count * 60.0 / WINDOW_S
        return count * 60.0 / min(WINDOW_S, max(1.0, now - self._began_at))

    def line(self, waiting: int, at_once: int) -> str | None:
        """What is to be said now: when more begin to wait than are worked on at once, then each minute until none does.

        Args:
            waiting: records that are not committed.
            at_once: how many the intake takes at a time.
        """
        now = self._clock()
        if self._began_at is None:
            if waiting <= at_once:
                return None
            self._began_at = self._said_at = now
            return f"{waiting:,} queries are waiting"
        if waiting == 0:
            self._began_at = None
            return "no query is waiting any more"
        if now - self._said_at < WINDOW_S:
            return None
        self._said_at = now
        return f"{self.a_minute():,.0f} answers a minute, {waiting:,} waiting"
