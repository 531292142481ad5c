"""A member of a consumer group. What transactions took back is not read, and what is open in one is waited for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState

from semievold.config.streams import KafkaSettings
from semievold.streams.kafka.client.batches import bound_batches
from semievold.streams.kafka.client.connection import REQUEST_MS, connect, translated
from semievold.streams.protocol import StreamRecord


class PartitionListener(Protocol):
    """Told by the client's own thread, while the reading one waits inside `poll`."""

    def assigned(self, partitions: frozenset[int]) -> None: ...

    def lost(self, partitions: frozenset[int]) -> None: ...


class GroupMember:
    """A consumer of one topic; for one thread alone. Blocks until a broker answered."""

    def __init__(self, settings: KafkaSettings, topic: str, group: str, listener: PartitionListener) -> None:
        bound_batches()
        self._settings = s = settings
        self._topic = topic
        self._client = connect(
            KafkaConsumer,
            s,
            group_id=group,
            group_instance_id=s.group_instance_id,
            enable_auto_commit=False,
            auto_offset_reset=s.auto_offset_reset,
            isolation_level="read_committed",  # what a transaction took back was never said
            partition_assignment_strategy=[CooperativeStickyAssignor],
            session_timeout_ms=int(s.session_timeout_s * 1000),
            heartbeat_interval_ms=int(min(3.0, s.session_timeout_s / 3) * 1000),
            max_poll_interval_ms=int(s.max_poll_interval_s * 1000),
            fetch_max_bytes=s.fetch_max_bytes,
            max_partition_fetch_bytes=s.partition_fetch_bytes,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        self._client.subscribe([topic], listener=_Listener(listener))
        # Makes the client know the topic's partitions before it joins: a leader that does not know them yet assigns
        # nothing to anybody, and may never notice.
        try:
            self.ends([0])
        except BaseException:
            self._client.close(autocommit=False, timeout_ms=0)
            raise

    @property
    def stable(self) -> bool:
        """Whether the group has given this member its partitions, perhaps none."""
        return self._client.group_metadata().state is MemberState.STABLE

    @property
    def identity(self) -> Any:
        """Who this member is now, for `TransactionalSender.commit`; None while it is in no generation of its group.

        From any thread.
        """
        found = self._client.group_metadata()
        return found if found.generation_id > 0 and found.member_id else None

    def poll(self, wait_s: float, max_records: int) -> list[StreamRecord]:
        with translated(self._settings):
            polled = self._client.poll(timeout_ms=int(wait_s * 1000), max_records=max_records)
        return [_record(each) for some in polled.values() for each in some]

    def hold(self, held: bool) -> None:
        """Hold or release all partitions; also newly assigned ones, which always arrive released."""
        owned, paused = self._client.assignment(), self._client.paused()
        if held and owned - paused:
            self._client.pause(*(owned - paused))
        elif not held and paused:
            self._client.resume(*paused)

    def committed(self, partition: int) -> int | None:
        with translated(self._settings):
            offset: int | None = self._client.committed(self._place(partition), timeout_ms=REQUEST_MS)
        return offset

    def position(self, partition: int) -> int | None:
        """The next offset to be read; None while the broker has not said where the partition begins or ends."""
        with translated(self._settings):
            offset: int | None = self._client.position(self._place(partition), timeout_ms=REQUEST_MS)
        return offset

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        offsets = {self._place(number): OffsetAndMetadata(offset, "", -1) for number, offset in next_offsets.items()}
        with translated(self._settings):
            self._client.commit(offsets, timeout_ms=REQUEST_MS)

    def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """The offset after the last record of each partition that can be read: before the first open transaction."""
        places = [self._place(partition) for partition in partitions]
        with translated(self._settings):
            ends = self._client.end_offsets(places, timeout_ms=REQUEST_MS)
        return {place.partition: end for place, end in ends.items()}

    def written(self, partition: int) -> int:
        """The offset after the last record, open transactions included, as the last fetch told; -1 before it."""
        with translated(self._settings):
            offset: int | None = self._client.highwater(self._place(partition))
        return -1 if offset is None else offset

    def close(self, timeout_s: float) -> None:
        with translated(self._settings):
            self._client.close(autocommit=False, timeout_ms=int(timeout_s * 1000))

    def _place(self, partition: int) -> Any:
        return TopicPartition(self._topic, partition)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, listener: PartitionListener) -> None:
        self._listener = listener

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._listener.assigned(_numbers(assigned))

    def on_partitions_revoked(self, revoked: Any) -> None:
        self._listener.lost(_numbers(revoked))

    def on_partitions_lost(self, lost: Any) -> None:
        self._listener.lost(_numbers(lost))


def _numbers(places: Any) -> frozenset[int]:
    return frozenset(place.partition for place in places)


def _record(record: Any) -> StreamRecord:
    return StreamRecord(
        record.topic,
        record.partition,
        record.offset,
        _text(record.key),
        record.value,
        # Of several headers with one name the last counts.
        {name: _text(value) or "" for name, value in record.headers} if record.headers else {},
        max(0, record.timestamp) / 1000,
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")
