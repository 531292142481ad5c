"""Commits in transactions: what the records below an offset cause is published with the offset, or neither is.

Owns what is due between the end of a record's work and its commit. The state stays the truth: a prediction is stored
before it is due, and after a crash its record comes again and makes the stored one due.
Invariant: what a record causes is published exactly when an offset above it is committed; so a record that comes again
has caused nothing yet.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from semievol.errors import TransientError
from semievold.intake.commits import Commits
from semievold.retry import Health
from semievold.streams.protocol import Caused, Due, OutgoingRecord, StreamConsumer, StreamRecord, Transactions

HELD_RECORDS = 5_000
HELD_BYTES = 64 * 1024 * 1024
"""Nothing more is read while so much is due and waits for an earlier record of its partition."""
WAIT_AFTER_FAILURE_S = 1.0


class TransactionalCommits(Commits):
    """The commits of one consumer, in transactions that go on beside the next batches.

    Args:
        published: told of the keys of what was committed, by topic.
    """

    def __init__(
        self,
        consumer: StreamConsumer,
        transactions: Transactions,
        published: Callable[[str, Sequence[str | None]], None],
        mark_published: Callable[[], Awaitable[None]],
        interval_s: float,
        health: Health,
    ) -> None:
        super().__init__(consumer, mark_published, interval_s, health)
        self._transactions = transactions
        self._published = published
        self._due: defaultdict[int, dict[int, Caused]] = defaultdict(dict)  # partition -> offset
        self._taken: frozenset[int] = frozenset()  # the partitions at the last transaction
        self._going_on: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        held = [each.record for some in self._due.values() for each in some.values()]
        return len(held) >= HELD_RECORDS or sum(len(each.value or b"") for each in held) >= HELD_BYTES

    def delivered(self, records: Sequence[StreamRecord]) -> None:
        for partition in self._take_revoked():
            self._due.pop(partition, None)
        self._add(records)

    def causes(self, topic: str, caused: Sequence[tuple[StreamRecord, OutgoingRecord]]) -> None:
        """What each record causes, before it is finished; it is ignored of records that were passed or revoked."""
        for record, outgoing in caused:
            if self._tracker.holds(record.partition, record.offset):
                self._due[record.partition][record.offset] = Caused(record.offset, topic, outgoing)

    async def commit(self) -> None:
        """Begin a transaction of what is finished, when it is time again and the last one has ended.

        Raises:
            ConfigError: transactions cannot be used.
        """
        if self._going_on is not None:
            if not self._going_on.done():
                return
            going_on, self._going_on = self._going_on, None
            going_on.result()
        offsets = self._tracker.committable()
        moved = self._consumer.assigned != self._taken
        if (offsets or moved) and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + self._interval_s
            self._going_on = asyncio.create_task(self._transact(offsets), name="intake-transaction")

    async def commit_last(self) -> None:
        for _ in range(2):  # the one that goes on, and one of what has finished since
            self._next_s = 0.0
            await self.commit()
            if self._going_on is not None:
                await self._going_on
        await self.mark_published()

    async def _transact(self, offsets: Mapping[int, int]) -> None:
        owned = self._consumer.assigned
        due = {
            partition: Due(next_offset, [each for at, each in sorted(self._due[partition].items()) if at < next_offset])
            for partition, next_offset in offsets.items()
        }
        try:
            committed = await self._transactions.commit(due)
        except TransientError as error:
            self._health.failed("transaction", error)
            self._next_s = time.monotonic() + WAIT_AFTER_FAILURE_S
            return
        self._health.answered("transaction")
        self._taken = owned
        self._tracker.committed(committed)
        for partition in committed:
            for each in due[partition].caused:
                # Where the partition was away meanwhile, something else may stand there, of its next life.
                if self._due[partition].get(each.offset) is each:
                    del self._due[partition][each.offset]
                self._published(each.topic, [each.record.key])
        await self.mark_published()
