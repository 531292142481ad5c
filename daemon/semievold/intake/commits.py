"""Commits what is finished, from time to time, and goes on where a commit fails: the next one covers it.

Owns the records between their delivery and their commit, and the order of a commit: predictions are marked as published
first. Which offset may be committed is said by `semievold.intake.offsets`; the labels role, which works on one batch
at a time, waits for its commits instead. Invariant: a commit that fails loses nothing and stops nobody; it shows as
degraded until one succeeds, and what it would have said is said by the next.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from semievol.errors import TransientError
from semievold.intake.offsets import OffsetTracker
from semievold.retry import Health
from semievold.streams.protocol import StreamConsumer, StreamRecord


class Commits:
    """The commits of one consumer.

    Args:
        mark_published: marks what was published in the state.
        health: told what does not answer.
    """

    def __init__(
        self,
        consumer: StreamConsumer,
        mark_published: Callable[[], Awaitable[None]],
        interval_s: float,
        health: Health,
    ) -> None:
        self._consumer = consumer
        self._mark_published = mark_published
        self._interval_s = interval_s
        self._health = health
        self._tracker = OffsetTracker()
        self._next_s = 0.0

    @property
    def in_flight(self) -> int:
        """Records delivered and not finished."""
        return self._tracker.in_flight

    @property
    def full(self) -> bool:
        """Whether nothing more is to be read until something is committed."""
        return False

    def delivered(self, records: Sequence[StreamRecord]) -> None:
        """They came, after what was revoked meanwhile: that belongs to someone else."""
        self._take_revoked()
        self._add(records)

    def finished(self, records: Sequence[StreamRecord]) -> None:
        """Everything that they cause is durable."""
        for record in records:
            self._tracker.done(record.partition, record.offset)

    async def commit(self) -> None:
        """Commit what is finished, when it is time again."""
        offsets = self._tracker.committable()
        if not offsets or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + self._interval_s
        await self.mark_published()
        try:
            await self._consumer.commit(offsets)
        except TransientError as error:
            self._health.failed("commit", error)
        else:
            self._health.answered("commit")
            self._tracker.committed(offsets)

    async def commit_last(self) -> None:
        """At the stop: what is finished now, at once."""
        self._next_s = 0.0
        await self.commit()
        await self.mark_published()

    async def mark_published(self) -> None:
        """Mark what was published; what fails is marked with the next commit, or published again after a restart."""
        try:
            await self._mark_published()
        except TransientError as error:
            self._health.failed("store", error)
        else:
            self._health.answered("store")

    def _take_revoked(self) -> frozenset[int]:
        revoked = self._consumer.revoked()
        self._tracker.revoke(revoked)
        return revoked

    def _add(self, records: Sequence[StreamRecord]) -> None:
        for record in records:
            self._tracker.add(record.partition, record.offset)
