"""What the thread that reads a topic and the event loop both touch: the buffer between them, and jobs for the thread.

Invariant: a record leaves the buffer only while its partition has been owned without interruption since it was read.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from semievol.errors import ConfigError, SemiEvolError
from semievold.errors import TransientStreamError
from semievold.streams.protocol import StreamRecord

T = TypeVar("T")
Asked: TypeAlias = tuple[Callable[..., object], concurrent.futures.Future[object]]
"""A job for the reading thread, and where its answer goes."""

BUFFER_RECORDS = 1000
BUFFER_BYTES = 16 * 1024 * 1024
"""Reading pauses while the buffer holds more than this; a fetch that is under way may still add to it."""


class Shared:
    """What the reading thread and the event loop both touch, under one lock."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.closing = False
        self._ended = False
        self.owned: frozenset[int] = frozenset()
        self.joined = False
        self.jobs: deque[Asked] = deque()
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
                    answer.set_exception(reader_ended())
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
                answer.set_exception(reader_ended())
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


def reader_ended() -> TransientStreamError:
    return TransientStreamError("the reader of the topic has ended")


def _size(record: StreamRecord) -> int:
    return len(record.value or b"")
