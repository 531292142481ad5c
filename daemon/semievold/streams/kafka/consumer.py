"""Reads one topic as a member of a consumer group: the async side.

The client is not thread-safe and must be polled without pause or its group throws it out, so it lives in one thread
(`kafka.reader`) that fills a bounded buffer (`kafka.shared`); `poll` only takes from the buffer. Work of any length is
therefore safe.
Invariant: a record leaves the buffer only while its partition has been owned without interruption since it was read,
and what was revoked is told by the first poll after it, before any record of the partition's next life.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from semievol.errors import SemiEvolError
from semievold.config.streams import KafkaSettings
from semievold.errors import TransientStreamError
from semievold.streams.kafka.client.connection import BOOTSTRAP_S, REQUEST_S
from semievold.streams.kafka.reader import Reader
from semievold.streams.kafka.shared import Shared, reader_ended
from semievold.streams.kafka.topics import KafkaTopics
from semievold.streams.protocol import PartitionOffsets, StreamRecord

T = TypeVar("T")

ANSWER_S = REQUEST_S + 2 * BOOTSTRAP_S
CLOSE_S = 12.0
GROUP_LAG_S = 2.0
"""How old the group's lag may be that a process which does not read is told."""
WHY_S = 5.0
"""How often it is asked which transaction holds the records back."""


class KafkaStreamConsumer:
    """See semievold.streams.protocol.StreamConsumer. The thread starts with the first call."""

    def __init__(self, settings: KafkaSettings, topics: KafkaTopics, topic: str, group: str) -> None:
        self._settings = settings
        self._topics = topics
        self._topic = topic
        self._group = group
        self._shared = Shared()
        self._thread: threading.Thread | None = None
        self._reader: Reader | None = None
        self._told: frozenset[int] = frozenset()
        self._group_lag: tuple[float, int] | None = None
        self._waits_for: str | None = None
        self._next_why = 0.0

    @property
    def topic(self) -> str:
        return self._topic

    @property
    def assigned(self) -> frozenset[int]:
        return self._shared.owned

    @property
    def group(self) -> str:
        return self._group

    @property
    def identity(self) -> Any:
        """Which member of the group this is now, in which generation; None: it is in none. Opaque."""
        return None if self._reader is None else self._reader.identity

    def committable(self, partitions: Iterable[int]) -> frozenset[int]:
        """Those of the partitions that are owned, and were without interruption since the last poll."""
        return frozenset(self._shared.committable(dict.fromkeys(partitions, 0)))

    async def committed(self, partitions: Iterable[int]) -> dict[int, int]:
        """What the group has committed, asked now; waits for transactions that are being ended."""
        wanted = tuple(partitions)
        return await self._answer(lambda reader: reader.committed(wanted))

    def committed_with(self, next_offsets: Mapping[int, int]) -> None:
        """These were committed by somebody else for this member: in a transaction."""
        wanted = dict(next_offsets)
        self._shared.ask(lambda reader: reader.note(self._shared.committable(wanted)))

    async def poll(self, max_records: int, timeout_s: float) -> list[StreamRecord]:
        self._start()
        deadline = time.monotonic() + timeout_s
        while True:
            records, revoked = self._shared.take(max_records)
            self._told |= revoked
            left_s = deadline - time.monotonic()
            if records or max_records == 0 or left_s <= 0:
                return records
            await self._shared.something(left_s)

    def revoked(self) -> frozenset[int]:
        told, self._told = self._told, frozenset()
        return told

    async def commit(self, next_offsets: Mapping[int, int]) -> None:
        if self._thread is not None and self._shared.committable(next_offsets):
            wanted = dict(next_offsets)
            await self._answer(lambda reader: reader.commit(self._shared.committable(wanted)))

    async def lag(self) -> int:
        """Of the owned partitions; as long as this process has not joined its group, the whole group's."""
        if self._shared.joined:
            lag, still = await self._answer(lambda reader: (reader.lag(), reader.stands_still()))
            await self._ask_why(still)
            return lag
        now = time.monotonic()
        if self._group_lag is None or now >= self._group_lag[0]:
            offsets = await asyncio.to_thread(self._observe)
            self._group_lag = (now + GROUP_LAG_S, sum(each.lag for each in offsets))
        return self._group_lag[1]

    @property
    def waits_for(self) -> str | None:
        return self._waits_for

    async def close(self) -> None:
        """Leave the group; a static member stays in it until its session times out, as is its purpose."""
        if self._thread is not None:
            with self._shared.changed:
                self._shared.closing = True
                self._shared.changed.notify()
            await asyncio.to_thread(self._thread.join, CLOSE_S)
            self._thread = None

    def _start(self) -> None:
        if self._thread is None:
            self._reader = Reader(self._settings, self._topics, self._topic, self._group, self._shared)
            self._thread = threading.Thread(target=self._reader.run, name=f"kafka-read-{self._topic}", daemon=True)
            self._thread.start()

    async def _ask_why(self, still: bool) -> None:
        if not still:
            self._waits_for = None
        elif time.monotonic() >= self._next_why:
            self._next_why = time.monotonic() + WHY_S
            with suppress(SemiEvolError):  # such as a missing permission: reading goes on without
                self._waits_for = await asyncio.to_thread(self._topics.open_transaction, self._topic)

    def _observe(self) -> list[PartitionOffsets]:
        self._topics.ensure(self._topic)
        return self._topics.offsets(self._topic, self._group)

    async def _answer(self, job: Callable[[Reader], T]) -> T:
        if self._thread is None:
            raise reader_ended()
        asked = self._shared.ask(job)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(asked), ANSWER_S)
        except TimeoutError:
            raise TransientStreamError(f"Kafka did not answer within {ANSWER_S:.0f} s") from None
