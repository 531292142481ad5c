"""What the holder of each token may ask for: so many requests at once, and so many a minute.

Owns the counting, in this process alone: each gateway counts for itself. Invariant: what was counted as running is
counted until it ends, and a holder never has more running than its limit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from semievold.config.fronts import TokenSettings


@dataclass(slots=True)
class _Minute:
    """Requests that are left, as of `at`; they come back evenly."""

    left: float
    at: float


@dataclass(frozen=True, slots=True)
class Excess:
    """Why a request has to wait, and how long, in seconds."""

    reason: str
    retry_after_s: int


class Quotas:
    """The limits of all tokens; one without settings has none."""

    def __init__(self, tokens: Mapping[str, TokenSettings], clock: Callable[[], float]) -> None:
        self._tokens = tokens
        self._clock = clock
        self._running: Counter[str] = Counter()
        self._minutes: dict[str, _Minute] = {}

    def largest(self, holder: str) -> int | None:
        """How many requests one list may stand for at most; None: no limit."""
        settings = self._tokens.get(holder)
        limits = [] if settings is None else [settings.requests_at_once, settings.requests_per_minute]
        return min((limit for limit in limits if limit is not None), default=None)

    def excess(self, holder: str, count: int = 1) -> Excess | None:
        """Whether `count` requests more would be too many; None: no, and they are taken from the minute."""
        settings = self._tokens.get(holder)
        if settings is None:
            return None
        at_once, a_minute = settings.requests_at_once, settings.requests_per_minute
        if at_once is not None and self._running[holder] + count > at_once:
            return Excess(f"this token may run {at_once} requests at once", 1)
        if a_minute is None:
            return None
        now = self._clock()
        minute = self._minutes.setdefault(holder, _Minute(a_minute, now))
        minute.left = min(a_minute, minute.left + (now - minute.at) * a_minute / 60)
        minute.at = now
        if minute.left < count:
            wait_s = (count - minute.left) * 60 / a_minute
            return Excess(f"this token may send {a_minute} requests a minute", max(1, math.ceil(wait_s)))
        minute.left -= count
        return None

    @contextmanager
    def counted(self, holder: str, count: int = 1) -> Iterator[None]:
        """They run in the block."""
        self._running[holder] += count
        try:
            yield
        finally:
            self._running[holder] -= count


def requests_in(body: Mapping[str, object]) -> int:
    """How many requests a body stands for: a list of prompts (texts, or lists of token ids) as many as it has."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and any(isinstance(each, (str, list, dict)) for each in prompt):
        return len(prompt)
    return 1
