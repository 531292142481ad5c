"""What the holder of each token may ask for: so many requests at once, so many requests and so many tokens a minute.

Owns the counting, in this process alone: each gateway counts for itself. Invariants: what was counted as running is
counted until it ends, and a holder never has more running than its limit; a request takes from the minute what it may
use at most, and gives back what it did not use.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from semievold.config.fronts import TokenSettings
from semievold.gateway.buckets import Bucket


@dataclass(frozen=True, slots=True)
class Excess:
    """Why a request has to wait, and how long, in seconds."""

    reason: str
    retry_after_s: int


class Reservation:
    """Tokens that a request may use, until it is known how many it did."""

    def __init__(self, tokens: int = 0, settle: Callable[[int], None] = lambda _: None) -> None:
        self._tokens = tokens
        self._settle: Callable[[int], None] | None = settle

    def spent(self, tokens: int) -> None:
        """So many it was, once; whatever is not told stays taken."""
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(self._tokens - tokens)


class Quotas:
    """The limits of all tokens; one without settings has none."""

    def __init__(self, tokens: Mapping[str, TokenSettings], clock: Callable[[], float]) -> None:
        self._tokens = tokens
        self._clock = clock
        self._running: Counter[str] = Counter()
        self._requests: dict[str, Bucket] = {}
        self._used: dict[str, Bucket] = {}

    def largest(self, holder: str) -> int | None:
        """How many requests one list may stand for at most; None: no limit."""
        settings = self._tokens.get(holder)
        limits = [] if settings is None else [settings.requests_at_once, settings.requests_per_minute]
        return min((limit for limit in limits if limit is not None), default=None)

    def metered(self, holder: str) -> bool:
        """Whether the holder's tokens are counted."""
        settings = self._tokens.get(holder)
        return settings is not None and settings.tokens_per_minute is not None

    def excess(self, holder: str, count: int = 1, tokens: int = 0) -> Excess | Reservation:
        """Whether `count` requests more of up to so many `tokens` in all would be too many; else they are taken from
        the minute.
        """
        settings = self._tokens.get(holder)
        if settings is None:
            return Reservation()
        at_once, a_minute, most = settings.requests_at_once, settings.requests_per_minute, settings.tokens_per_minute
        if at_once is not None and self._running[holder] + count > at_once:
            return Excess(f"this token may run {at_once} requests at once", 1)
        now = self._clock()
        requests = None if a_minute is None else self._requests.setdefault(holder, Bucket(a_minute, now))
        used = None if most is None else self._used.setdefault(holder, Bucket(most, now))
        # A request that may use more than a minute's is let in by a full bucket.
        wanted = 0 if most is None else min(tokens, most)
        if used is not None and most is not None and (wait_s := used.wait(most, now, max(1, wanted))):
            return Excess(f"this token may use {most} tokens a minute", wait_s)
        if requests is not None and a_minute is not None and (wait_s := requests.take(a_minute, now, count)):
            return Excess(f"this token may send {a_minute} requests a minute", wait_s)
        if used is None or most is None or tokens == 0:
            return Reservation()
        used.take(most, now, wanted)
        bucket, limit = used, most
        return Reservation(wanted, lambda unused: bucket.give(limit, unused))

    def headers(self, holder: str) -> dict[str, str]:
        """What of the minute is left, in OpenAI's headers; empty: the holder has no such limit."""
        settings, now = self._tokens.get(holder), self._clock()
        found: dict[str, str] = {}
        if settings is None:
            return found
        for what, most, buckets in (
            ("requests", settings.requests_per_minute, self._requests),
            ("tokens", settings.tokens_per_minute, self._used),
        ):
            if most is not None:
                bucket = buckets.setdefault(holder, Bucket(most, now))
                bucket.refill(most, now)
                found[f"x-ratelimit-limit-{what}"] = str(most)
                found[f"x-ratelimit-remaining-{what}"] = str(max(0, math.floor(bucket.left)))
                found[f"x-ratelimit-reset-{what}"] = f"{bucket.full_in(most)}s"
        return found

    def began(self, holder: str, count: int = 1) -> None:
        """So many requests of the holder's run from here on."""
        self._running[holder] += count

    def ended(self, holder: str, count: int = 1) -> None:
        """They have ended."""
        self._running[holder] -= count


def requests_in(body: Mapping[str, object]) -> int:
    """How many requests a body stands for: a list of prompts (texts, or lists of token ids) as many as it has."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and any(isinstance(each, (str, list, dict)) for each in prompt):
        return len(prompt)
    return 1
