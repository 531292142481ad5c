"""Reads one topic as a member of a consumer group: the async side, and what it shares with the reading thread.

The client is not thread-safe and must be polled without pause or its group throws it out, so it lives in one thread
(`kafka_reader`) that fills a bounded buffer; `poll` only takes from the buffer. Work of any length is therefore safe.
Invariant: a record leaves the buffer only while its partition has been owned without interruption since it was read,
and what was revoked is told by the first poll after it, before any record of the partition's next life.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from daemon.config_sections import KafkaSettings
from daemon.errors import TransientStreamError
from daemon.streams.kafka_client import BOOTSTRAP_S, REQUEST_S
from daemon.streams.kafka_reader import Reader
from daemon.streams.kafka_topics import KafkaTopics
from daemon.streams.protocol import PartitionOffsets, StreamRecord
from semievol.errors import ConfigError, SemiEvolError

T = TypeVar("T")

BUFFER_RECORDS = 1000
BUFFER_BYTES = 16 * 1024 * 1024
"""Reading pauses while the buffer holds more than this; a fetch that is under way may still add to it."""
ANSWER_S = REQUEST_S + 2 * BOOTSTRAP_S
CLOSE_S = 12.0
GROUP_LAG_S = 2.0
"""How old the group's lag may be that a process which does not read is told."""


class Shared:
    """What the reading thread and the event loop both touch, under one lock."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.closing = False
        self._ended = False
        self.owned: frozenset[int] = frozenset()
        self.joined = False
        self.jobs: deque[tuple[Callable[..., object], concurrent.futures.Future[object]]] = deque()
        self._buffer: deque[StreamRecord] = deque()
        self._buffered_bytes = 0
        self._revoked: set[int] = set()
        self._failure: SemiEvolError | None = None
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    # --- by the reading thread, and by the client's own during a rebalance ---------------------------------------

    def read(self, records: Sequence[StreamRecord]) -> None:
        """The client answered; perhaps there was nothing new."""
        with self.changed:
            self._failure = None
            if records:
                self._buffer.extend(records)
                self._buffered_bytes += sum(map(_size, records))
                self._wake()

    def assigned(self, partitions: frozenset[int]) -> None:
        with self.changed:
            self.owned |= partitions

    def lost(self, partitions: frozenset[int]) -> None:
        """Their next owner starts from the last commit: forget what was read of them."""
        with self.changed:
            self.owned -= partitions
            self._revoked |= partitions
            self._buffer = deque(record for record in self._buffer if record.partition not in partitions)
            self._buffered_bytes = sum(map(_size, self._buffer))
            self._wake()

    def failed(self, failure: SemiEvolError) -> None:
        with self.changed:
            self._failure = failure
            self._wake()

    def end(self) -> None:
        """The thread does nothing more: whoever waits for it is told so."""
        with self.changed:
            self._ended = True
            for _, answer in self.jobs:
                if answer.set_running_or_notify_cancel():
                    answer.set_exception(_reader_ended())
            self.jobs.clear()

    @property
    def full(self) -> bool:
        return len(self._buffer) >= BUFFER_RECORDS or self._buffered_bytes >= BUFFER_BYTES

    def committable(self, next_offsets: Mapping[int, int]) -> dict[int, int]:
        """Without the partitions that are not owned, or were away since the last poll: others may be further there."""
        with self.changed:
            kept = self.owned - self._revoked
            return {partition: offset for partition, offset in next_offsets.items() if partition in kept}

    # --- by the event loop ----------------------------------------------------------------------------------------

    def take(self, max_records: int) -> tuple[list[StreamRecord], frozenset[int]]:
        """Records, and what was revoked before they were read.

        Raises:
            TransientStreamError: there is nothing, because the thread cannot read; said once each time it fails.
            ConfigError: it never will.
        """
        with self.changed:
            if isinstance(self._failure, ConfigError):
                raise self._failure
            if max_records and not self._buffer and self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            was_full = self.full
            records = [self._buffer.popleft() for _ in range(min(max_records, len(self._buffer)))]
            self._buffered_bytes -= sum(map(_size, records))
            revoked, self._revoked = frozenset(self._revoked), set()
            if was_full and not self.full:
                self.changed.notify()
            return records, revoked

    def ask(self, job: Callable[..., T]) -> concurrent.futures.Future[T]:
        """Have the reading thread call `job` with its client."""
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self.changed:
            if self._ended:
                answer.set_exception(_reader_ended())
            else:
                self.jobs.append((job, answer))  # type: ignore[arg-type]
                self.changed.notify()
        return answer

    async def something(self, seconds: float) -> None:
        """Wait until there may be something to take, at most so long."""
        event = asyncio.Event()
        with self.changed:
            if self._buffer or self._failure is not None:
                return
            self._waiting = (asyncio.get_running_loop(), event)
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            with self.changed:
                self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None:
            loop, event = self._waiting
            loop.call_soon_threadsafe(event.set)


class KafkaStreamConsumer:
    """See daemon.streams.protocol.StreamConsumer. The thread starts with the first call."""

    def __init__(self, settings: KafkaSettings, topics: KafkaTopics, topic: str, group: str) -> None:
        self._settings = settings
        self._topics = topics
        self._topic = topic
        self._group = group
        self._shared = Shared()
        self._thread: threading.Thread | None = None
        self._told: frozenset[int] = frozenset()
        self._group_lag: tuple[float, int] | None = None

    @property
    def topic(self) -> str:
        return self._topic

    @property
    def assigned(self) -> frozenset[int]:
        return self._shared.owned

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
            return await self._answer(lambda reader: reader.lag())
        now = time.monotonic()
        if self._group_lag is None or now >= self._group_lag[0]:
            offsets = await asyncio.to_thread(self._observe)
            self._group_lag = (now + GROUP_LAG_S, sum(each.lag for each in offsets))
        return self._group_lag[1]

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
            reader = Reader(self._settings, self._topics, self._topic, self._group, self._shared)
            self._thread = threading.Thread(target=reader.run, name=f"kafka-read-{self._topic}", daemon=True)
            self._thread.start()

    def _observe(self) -> list[PartitionOffsets]:
        self._topics.ensure(self._topic)
        return self._topics.offsets(self._topic, self._group)

    async def _answer(self, job: Callable[[Reader], T]) -> T:
        if self._thread is None:
            raise _reader_ended()
        asked = self._shared.ask(job)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(asked), ANSWER_S)
        except TimeoutError:
            raise TransientStreamError(f"Kafka did not answer within {ANSWER_S:.0f} s") from None


def _reader_ended() -> TransientStreamError:
    return TransientStreamError("the reader of the topic has ended")


def _size(record: StreamRecord) -> int:
    return len(record.value or b"")
