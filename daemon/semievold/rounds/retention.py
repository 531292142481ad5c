"""Keeps the state from growing for ever: the leader deletes, on a timer, what store.retention lets go.

Owns the timer and the pauses; which rows may go is in semievold.store.retention. Invariant: the write lock is free at
least half of the time, so that the intake goes on at its pace.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Literal, TypeVar

from semievold.config.daemon import RetentionConfig
from semievold.retry import set_within
from semievold.rounds.lease import ControlLease
from semievold.store.retention import Place, RetentionStore

log = logging.getLogger(__name__)

DAY_S = 86_400.0
REQUESTS_S = 90 * DAY_S
"""How long answered requests of operators are kept."""
What = Literal["pseudo_labels", "round_rows", "requests"]

T = TypeVar("T")


class Retention:
    """The timer of one process that may lead.

    Args:
        store: whose writes are checked against the lease.
        keep_rounds: `artifacts.keep_rounds`: of so many rounds the members stay, whatever became of their adapters.
        deleted: told what was deleted, and how many rows.
        now: UTC seconds, of the clock that the rows have (`Database.now`).
    """

    def __init__(
        self,
        store: RetentionStore,
        config: RetentionConfig,
        keep_rounds: int,
        lease: ControlLease,
        deleted: Callable[[What, int], object],
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._config = config
        self._keep_rounds = keep_rounds
        self._lease = lease
        self._deleted = deleted
        self._now = now
        self._stop = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Look every `interval_s` while this process leads, until stopped."""
        self._stop = stop
        await self._lease.while_leading(self.look, self._config.interval_s, stop, log, "retention")

    async def look(self) -> None:
        """Delete all that may go now.

        Raises:
            LeaseLost: another process leads.
            TransientStoreError: the state is busy or away.
        """
        labels = await self._forget_labels()
        needed = await asyncio.to_thread(self._store.needed_rounds)
        rows = await self._while_some(lambda: self._store.forget_rounds(needed, self._keep_rounds), "round_rows")
        requests_before = self._now() - REQUESTS_S
        await self._while_some(lambda: self._store.forget_requests(requests_before), "requests")
        if labels or rows:
            log.info("retention: deleted %d pseudo-labels and %d rows of old rounds (store.retention)", labels, rows)

    async def _forget_labels(self) -> int:
        keep, days = self._config.pseudo_labels, self._config.days
        before = 0.0 if keep is None else await asyncio.to_thread(self._store.oldest_kept, keep)
        before = before if days is None else max(before, self._now() - days * DAY_S)
        place: Place | None = Place()
        total = 0
        while place is not None and not self._stop.is_set():
            swept = await self._gently(functools.partial(self._store.sweep, place, before))
            total += swept.deleted
            self._deleted("pseudo_labels", swept.deleted)
            place = swept.next
        return total

    async def _while_some(self, delete: Callable[[], int], what: What) -> int:
        total = 0
        while not self._stop.is_set() and (count := await self._gently(delete)):
            total += count
            self._deleted(what, count)
        return total

    async def _gently(self, transaction: Callable[[], T]) -> T:
        """Run it, then leave the write lock alone for as long as it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = await asyncio.to_thread(transaction)
        await set_within(self._stop, loop.time() - began)
        return result
