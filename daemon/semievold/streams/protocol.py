"""What the daemon needs from a stream: at-least-once delivery in order per partition, offsets committed by the reader.

Owns the record type and the two protocols, no transport. Implementations: local (SQLite), kafka.
Invariant: an offset is committed only by the consumer that owns its partition, and means "the next record to read".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

DEAD_LETTER_HEADERS = ("reason", "detail", "source_topic", "source_partition", "source_offset", "workload")
"""What is said of a record that can never be processed, in the headers of its dead letter beside its own."""

CLIENT_HEADER = "semievol-client"
"""Of a label that is feedback: who said it, as the gateway's keyed hash. Of a query: who asked, as that hash or by any
name; of one of them a round takes so much and no more. It is kept in the query's metadata under this name."""
CUT_HEADER = "value_truncated_from_bytes"
"""On a dead letter that did not fit as it came: how long the original value was."""

UNREAD_HEADER = "semievol-unread"
"""On a record whose value the stream did not read: why. It is dead-lettered as too large."""


class StreamRecord(NamedTuple):
    """One record as it was read.

    `value` None is a tombstone. `timestamp` is UTC seconds since the epoch. Keys and header values that are
    not UTF-8 are decoded with backslash escapes: a broken key must not stop its partition.
    """

    topic: str
    partition: int
    offset: int
    key: str | None
    value: bytes | None
    headers: Mapping[str, str]
    timestamp: float


class OutgoingRecord(NamedTuple):
    """One record to be published; records with one key stay in order."""

    key: str | None
    value: bytes | None
    headers: Mapping[str, str] = {}


class PartitionOffsets(NamedTuple):
    """How far a group has come on one partition; a group that never committed stands where it would begin."""

    partition: int
    committed: int
    end: int

    @property
    def lag(self) -> int:
        return max(0, self.end - self.committed)


class ResetTarget(NamedTuple):
    """Where a group is to go on: at either end, at the first record from a time on, or at an offset.

    `value` is UTC seconds or the offset; a target outside the partition means its nearer end.
    """

    kind: Literal["earliest", "latest", "timestamp", "offset"]
    value: float = 0.0


class StreamConsumer(Protocol):
    """One member of a consumer group, reading one topic. Used by one task; any task may ask for `lag`."""

    @property
    def topic(self) -> str: ...

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions that this member owns now; empty for a standby."""
        ...

    async def poll(self, max_records: int, timeout_s: float) -> list[StreamRecord]:
        """Wait until there are records, at most `timeout_s`, and return up to `max_records` of them.

        With `max_records` 0 nothing is fetched and nothing is waited for: the call only keeps the membership
        alive, so that a reader whose hands are full is not thrown out of its group. Between two calls of `revoked`
        the offsets of one partition rise strictly; they may have gaps.

        Raises:
            TransientStreamError: the stream did not answer; the position is unchanged.
        """
        ...

    def revoked(self) -> frozenset[int]:
        """The partitions lost since the last call, also those that came back in the meantime.

        To be called after every poll and before its records are used: work in flight of these partitions may be
        finished but must not be committed, because their next owner starts from the last commit.
        """
        ...

    async def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Store {partition: next offset to read}; partitions that are not owned any more are left out silently.

        Raises:
            TransientStreamError: nothing, or all of it, was stored; the same call may be made again.
        """
        ...

    async def lag(self) -> int:
        """Records of the owned partitions that are not committed yet.

        Raises:
            TransientStreamError: the stream did not answer.
        """
        ...

    @property
    def waits_for(self) -> str | None:
        """Why records that are written are not handed over, as last seen by `lag`; None: they are.

        A transaction that its producer left open is the reason: what follows it is read when it has ended.
        """
        ...

    async def close(self) -> None:
        """Leave the group, so that another member takes over at once. Commits nothing."""
        ...


class Caused(NamedTuple):
    """What a record that was read causes: one record of another topic."""

    offset: int
    topic: str
    record: OutgoingRecord


class Due(NamedTuple):
    """What the records of a partition below `next_offset` cause, in their order; some may be published already."""

    next_offset: int
    caused: Sequence[Caused]


class Transactions(Protocol):
    """Publishes what records cause together with their offsets: both are seen, once, or neither. Used by one task."""

    async def commit(self, due: Mapping[int, Due]) -> dict[int, int]:
        """One transaction for {partition: what is due of it}; {partition: next offset} of those that are committed now.

        Partitions that are not owned any more are left out. Takes partitions over that are owned since the last call:
        what a dead process left open of them is ended; therefore it may be called with nothing.

        Raises:
            TransientStreamError: nothing is committed, or nobody knows; the next call finds out, and publishes nothing
                twice.
            ConfigError: it never will be.
        """
        ...

    async def passed(self) -> dict[int, int]:
        """{partition: what the group has committed}, of every partition that has a commit.

        Raises:
            TransientStreamError: the stream did not answer.
        """
        ...

    async def close(self) -> None: ...


class StreamProducer(Protocol):
    """Writes records; safe to share between tasks."""

    async def publish(self, topic: str, records: Sequence[OutgoingRecord]) -> None:
        """Append the records; returns when they are durable.

        Raises:
            TransientStreamError: none, some or all were appended; publishing again may duplicate them.
        """
        ...

    async def close(self) -> None: ...


class Stream(Protocol):
    """One way to a stream; a process opens one."""

    def consumer(self, topic: str, group: str) -> StreamConsumer:
        """A member of `group` that owns nothing until its first poll."""
        ...

    def producer(self) -> StreamProducer: ...

    def transactions(self, consumer: StreamConsumer) -> Transactions | None:
        """For what the records of this consumer cause; None: offsets are committed apart, after what they cause."""
        ...

    def offsets(self, topic: str, group: str) -> list[PartitionOffsets]:
        """How far the group has come, by partition; blocks.

        Raises:
            TransientStreamError: the stream did not answer.
        """
        ...

    def reset(self, topic: str, group: str, target: ResetTarget) -> None:
        """Let the group go on from `target` on every partition; blocks.

        Raises:
            StateConflict: the group has active members.
            TransientStreamError: the stream did not answer; call it again.
        """
        ...
