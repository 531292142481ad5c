"""A stream in the embedded SQLite file: append-only topics, consumer groups, committed offsets, no server.

Each (group, topic, partition) is owned by one consumer at a time through a kernel file lock, which the kernel
releases when the process dies; a standby takes over while it polls. Offsets are assigned under the database's write
lock, so they have no gaps, whoever writes.
Invariant: only the owner of a partition commits its offset, and an owner never loses a partition while it lives.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from semievol.errors import ConfigError
from semievol.file_lock import FileLock
from semievold.config.streams import StreamSettings
from semievold.errors import StateConflict, TransientStoreError, TransientStreamError
from semievold.store.database import Database
from semievold.store.tables import stream_offsets, stream_records
from semievold.streams.protocol import OutgoingRecord, PartitionOffsets, ResetTarget, StreamConsumer, StreamRecord

DELETION_INTERVAL_S = 600.0
DELETED_AT_ONCE = 500
"""Of a partition, in the transaction that appends; while there are more, each append deletes some."""

# Built once: they run for every batch.
_IN_PARTITION = (
    stream_records.c.topic == sa.bindparam("topic"),
    stream_records.c.partition == sa.bindparam("partition"),
)
_NEWEST = sa.select(sa.func.max(stream_records.c.offset)).where(*_IN_PARTITION)
_NEXT = (
    sa.select(stream_records)
    .where(*_IN_PARTITION, stream_records.c.offset >= sa.bindparam("position"))
    .order_by(stream_records.c.offset)
    .limit(sa.bindparam("count"))
)
_APPEND = sa.insert(stream_records)


class LocalStream:
    """The stream of one database file. One object per process: its producers wake its consumers at once.

    Raises:
        ConfigError: the database is not a file on this machine.
    """

    def __init__(self, database: Database, settings: StreamSettings) -> None:
        if database.file is None:
            raise ConfigError("stream.kind: local needs store.url to be an SQLite file; use kafka with a server")
        self._database = database
        self._settings = settings
        self._locks = database.file.with_name(database.file.name + ".locks")
        self._bells: defaultdict[str, _Bell] = defaultdict(_Bell)

    def consumer(self, topic: str, group: str) -> LocalConsumer:
        """A member of `group` that owns nothing until its first poll."""
        directory = self._lock_directory(topic, group)
        return LocalConsumer(self._database, self._settings, topic, group, directory, self._bells[topic])

    def producer(self) -> LocalProducer:
        return LocalProducer(self._database, self._settings, self._bells)

    def transactions(self, consumer: StreamConsumer) -> None:
        """None: a prediction may be published again after a crash."""

    def offsets(self, topic: str, group: str) -> list[PartitionOffsets]:
        c, o = stream_records.c, stream_offsets.c
        committed = sa.select(o.partition, o.next_offset).where(o.topic == topic, o.group == group)
        newest = (
            sa.select(c.partition, sa.func.max(c.offset).label("newest")).where(c.topic == topic).group_by(c.partition)
        )
        with _translated(), self._database.read() as connection:
            stored = {row.partition: row.next_offset for row in connection.execute(committed)}
            ends = {row.partition: row.newest + 1 for row in connection.execute(newest)}
        partitions = sorted({*range(self._settings.partitions), *stored, *ends})
        return [PartitionOffsets(p, stored.get(p, 0), ends.get(p, stored.get(p, 0))) for p in partitions]

    def reset(self, topic: str, group: str, target: ResetTarget) -> None:
        rows = [
            {
                "group": group,
                "topic": topic,
                "partition": each.partition,
                "next_offset": self._place(topic, each, target),
            }
            for each in self.offsets(topic, group)
        ]
        with ExitStack() as held:
            for row in rows:
                lock = FileLock.take(self._lock_directory(topic, group) / f"{row['partition']}.lock")
                if lock is None:
                    raise StateConflict(
                        f"consumer group {group} has an active member; stop the process that reads {topic}"
                    )
                held.callback(lock.release)
            with _translated(), self._database.write() as connection:
                self._database.upsert(connection, stream_offsets, rows, ["next_offset"])

    def _place(self, topic: str, partition: PartitionOffsets, target: ResetTarget) -> int:
        c = stream_records.c
        wanted = [c.topic == topic, c.partition == partition.partition]
        if target.kind == "latest":
            return partition.end
        if target.kind == "timestamp":
            wanted.append(c.timestamp >= target.value)
        elif target.kind == "offset":
            wanted.append(c.offset >= int(target.value))
        with _translated(), self._database.read() as connection:
            first = connection.execute(sa.select(sa.func.min(c.offset)).where(*wanted)).scalar()
        return partition.end if first is None else int(first)

    def _lock_directory(self, topic: str, group: str) -> Path:
        return self._locks / quote(group, safe="") / quote(topic, safe="")


class LocalConsumer:
    """One member of a consumer group (see semievold.streams.protocol.StreamConsumer)."""

    def __init__(
        self, database: Database, settings: StreamSettings, topic: str, group: str, locks: Path, bell: _Bell
    ) -> None:
        self._database = database
        self._settings = settings
        self._topic = topic
        self._group = group
        self._lock_directory = locks
        self._bell = bell
        self._owned: dict[int, FileLock] = {}
        self._positions: dict[int, int] = {}  # next offset to fetch
        self._committed: dict[int, int] = {}
        self._taking = threading.Lock()
        self._next_attempt = 0.0
        self._turn = 0

    @property
    def topic(self) -> str:
        return self._topic

    @property
    def assigned(self) -> frozenset[int]:
        return frozenset(self._owned)

    async def poll(self, max_records: int, timeout_s: float) -> list[StreamRecord]:
        deadline = time.monotonic() + timeout_s
        while max_records > 0:
            rings = self._bell.rings
            records = await asyncio.to_thread(self._fetch, max_records)
            for record in records:
                self._positions[record.partition] = record.offset + 1
            left_s = deadline - time.monotonic()
            if records or left_s <= 0:
                return records
            await self._bell.wait(rings, min(left_s, self._settings.poll_interval_s))
        return []

    def revoked(self) -> frozenset[int]:
        return frozenset()

    async def commit(self, next_offsets: Mapping[int, int]) -> None:
        owned = {partition: offset for partition, offset in next_offsets.items() if partition in self._owned}
        if owned:
            await asyncio.to_thread(self._store, owned)
            self._committed.update(owned)

    @property
    def waits_for(self) -> None:
        """Nothing: what is written is read."""
        return None

    async def lag(self) -> int:
        return await asyncio.to_thread(self._measure_lag)

    async def close(self) -> None:
        for lock in self._owned.values():
            lock.release()
        self._owned.clear()

    # --- in a thread --------------------------------------------------------------------------------------------

    def _fetch(self, max_records: int) -> list[StreamRecord]:
        with _translated(), self._database.read() as connection:
            self._take_free_partitions(connection)
            records: list[StreamRecord] = []
            for partition in self._in_turn():
                wanted = {
                    "topic": self._topic,
                    "partition": partition,
                    "position": self._positions[partition],
                    "count": max_records - len(records),
                }
                records += map(StreamRecord._make, connection.execute(_NEXT, wanted))
                if len(records) >= max_records:
                    break
            return records

    def _in_turn(self) -> list[int]:
        """The owned partitions, another one first each time, so that a busy one starves none."""
        owned = sorted(self._owned)
        if not owned:
            return []
        self._turn = (self._turn + 1) % len(owned)
        return owned[self._turn :] + owned[: self._turn]

    def _take_free_partitions(self, connection: sa.Connection) -> None:
        with self._taking:
            if time.monotonic() >= self._next_attempt:
                self._try_locks(connection)
                self._next_attempt = time.monotonic() + self._settings.lock_retry_s

    def _try_locks(self, connection: sa.Connection) -> None:
        written = connection.execute(
            sa.select(sa.func.max(stream_records.c.partition)).where(stream_records.c.topic == self._topic)
        ).scalar()
        taken: dict[int, FileLock] = {}
        try:
            # A producer with a higher setting may have written partitions that this process does not know of.
            for partition in range(max(self._settings.partitions, 1 + (-1 if written is None else written))):
                if partition in self._owned:
                    continue
                lock = FileLock.take(self._lock_directory / f"{partition}.lock")
                if lock is not None:
                    taken[partition] = lock
            offsets = self._begun(taken.keys()) if taken else {}
        except BaseException:
            for lock in taken.values():
                lock.release()
            raise
        self._positions.update(offsets)
        self._committed.update(offsets)
        self._owned.update(taken)

    def _begun(self, partitions: Collection[int]) -> dict[int, int]:
        """The committed offsets, read after the locks were taken: the former owner may just have moved them.

        A group that begins is entered at once: what it has not read yet is kept for it.
        """
        o = stream_offsets.c
        rows = [
            {"group": self._group, "topic": self._topic, "partition": partition, "next_offset": 0}
            for partition in partitions
        ]
        statement = sa.select(o.partition, o.next_offset).where(o.group == self._group, o.topic == self._topic)
        with self._database.write() as connection:
            self._database.insert_new(connection, stream_offsets, rows, o.partition)
            stored = {row.partition: row.next_offset for row in connection.execute(statement)}
        return {partition: stored[partition] for partition in partitions}

    def _store(self, next_offsets: Mapping[int, int]) -> None:
        rows = [
            {"group": self._group, "topic": self._topic, "partition": partition, "next_offset": offset}
            for partition, offset in next_offsets.items()
        ]
        with _translated(), self._database.write() as connection:
            self._database.upsert(connection, stream_offsets, rows, ["next_offset"])

    def _measure_lag(self) -> int:
        lag = 0
        with _translated(), self._database.read() as connection:
            self._take_free_partitions(connection)  # a member that never polled would have no lag to speak of
            for partition, committed in [(p, self._committed[p]) for p in sorted(self._owned)]:
                newest = connection.execute(_NEWEST, {"topic": self._topic, "partition": partition}).scalar()
                lag += 0 if newest is None else max(0, newest + 1 - committed)
        return lag


class LocalProducer:
    """Appends to topics; returns when the transaction is on disk."""

    def __init__(self, database: Database, settings: StreamSettings, bells: defaultdict[str, _Bell]) -> None:
        self._database = database
        self._partitions = settings.partitions
        self._retention_s = settings.retention_s
        self._awaited = {settings.queries, settings.labels}  # topics that have a reader, even if it did not start yet
        self._bells = bells
        self._unkeyed = itertools.count()
        self._next_deletion: dict[str, float] = {}  # by topic

    async def publish(self, topic: str, records: Sequence[OutgoingRecord]) -> None:
        if records:
            await asyncio.to_thread(self._append, topic, records)
            self._bells[topic].ring()

    async def close(self) -> None:
        """Nothing is buffered."""

    def _append(self, topic: str, records: Sequence[OutgoingRecord]) -> None:
        now = self._database.now()
        by_partition: defaultdict[int, list[OutgoingRecord]] = defaultdict(list)
        for record in records:
            by_partition[self._partition(record.key)].append(record)
        rows: list[dict[str, Any]] = []
        with _translated(), self._database.write() as connection:
            for partition, some in by_partition.items():
                newest = connection.execute(_NEWEST, {"topic": topic, "partition": partition}).scalar()
                rows += [
                    {
                        "topic": topic,
                        "partition": partition,
                        "offset": offset,
                        "key": record.key,
                        "value": record.value,
                        "headers": dict(record.headers),
                        "timestamp": now,
                    }
                    for offset, record in enumerate(some, start=0 if newest is None else newest + 1)
                ]
            connection.execute(_APPEND, rows)
            if self._retention_s is not None and time.monotonic() >= self._next_deletion.get(topic, 0.0):
                at_once = max(DELETED_AT_ONCE, 2 * len(rows))  # more than come, or they outrun it
                awaited = topic in self._awaited
                more = _delete_read(connection, topic, now - self._retention_s, at_once, awaited=awaited)
                pause_s = 0.0 if more else min(DELETION_INTERVAL_S, self._retention_s)
                self._next_deletion[topic] = time.monotonic() + pause_s

    def _partition(self, key: str | None) -> int:
        if self._partitions == 1:
            return 0
        number = next(self._unkeyed) if key is None else zlib.crc32(key.encode("utf-8", "surrogatepass"))
        return number % self._partitions


def _delete_read(connection: sa.Connection, topic: str, before: float, at_once: int, *, awaited: bool) -> bool:
    """Delete what was written earlier and every group of the topic has passed; with `awaited`, at least one has.

    Of each partition the oldest `at_once` at most; whether there may be more. The newest record of a partition
    stays, because offsets continue from it.
    """
    c, o = stream_records.c, stream_offsets.c
    last = connection.execute(sa.select(sa.func.max(c.partition)).where(c.topic == topic)).scalar()
    more = False
    for partition in range(0 if last is None else last + 1):
        mine = (c.topic == topic) & (c.partition == partition)
        read = sa.select(sa.func.min(o.next_offset)).where(o.topic == topic, o.partition == partition)
        newest = connection.execute(_NEWEST, {"topic": topic, "partition": partition}).scalar()
        passed = connection.execute(read).scalar()
        if newest is None or (passed is None and awaited):
            continue
        end = newest if passed is None else min(newest, passed)
        oldest = sa.select(c.offset, c.timestamp).where(mine, c.offset < end).order_by(c.offset).limit(at_once)
        old = list(itertools.takewhile(lambda row: row.timestamp < before, connection.execute(oldest)))
        if old:
            connection.execute(sa.delete(stream_records).where(mine, c.offset <= old[-1].offset))
        more = more or len(old) == at_once
    return more


class _Bell:
    """Wakes the readers of a topic, from any thread; `rings` tells a reader whether it missed one."""

    def __init__(self) -> None:
        self.rings = 0
        self._guard = threading.Lock()
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def ring(self) -> None:
        with self._guard:
            self.rings += 1
            for event, loop in self._waiting.items():
                loop.call_soon_threadsafe(event.set)

    async def wait(self, seen: int, seconds: float) -> None:
        """Wait until there were more rings than `seen`, at most so long."""
        event = asyncio.Event()
        with self._guard:
            if self.rings != seen:
                return
            self._waiting[event] = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            with self._guard:
                del self._waiting[event]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TransientStoreError as error:
        raise TransientStreamError(f"local stream: {error}") from error
