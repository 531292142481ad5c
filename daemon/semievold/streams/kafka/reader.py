"""The thread that owns a Kafka consumer: it joins the group, reads into the shared buffer, commits, and leaves.

Only this thread touches the client, with one exception: the client calls the rebalance listener from its own I/O thread
while this one waits inside `poll`. Nothing is committed from there.
Invariant: no record that the client has handed over is dropped, unless its partition was revoked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState, OffsetAndMetadata

from semievol.errors import ConfigError, SemiEvolError
from semievold.config.streams import KafkaSettings
from semievold.streams.kafka.client import REQUEST_S, connect, decode_headers, decode_text, translate
from semievold.streams.kafka.shared import Shared
from semievold.streams.kafka.topics import KafkaTopics, lag_of
from semievold.streams.protocol import StreamRecord

logger = logging.getLogger(__name__)

FETCHED_AT_ONCE = 500
WAIT_S = 0.05
"""How long one poll of the client waits for records; a commit waits as long when the topic is quiet."""
PAUSED_WAIT_S = 0.2
"""How long the thread sleeps between two polls while the buffer is full; a taken record or a job wakes it."""
RETRY_S = 0.5
CLOSE_S = 5.0
_GONE = -1
"""No offset: the partition was revoked."""


class Reader:
    """One member of the group, for as long as its thread runs."""

    def __init__(self, settings: KafkaSettings, topics: KafkaTopics, topic: str, group: str, shared: Shared) -> None:
        self._settings = settings
        self._topics = topics
        self._topic = topic
        self._group = group
        self._shared = shared
        self._client: Any = None
        self._unsettled: dict[int, int | None] = {}  # assigned: the first offset read, None while there was none
        self._committed: dict[int, int] = {}

    def run(self) -> None:
        """Read until the consumer is closed, or no retry can help."""
        shared = self._shared
        try:
            while not shared.closing:
                try:
                    self._turn()
                except Exception as error:
                    self._failed(error)
                    if isinstance(translate(error, self._settings), ConfigError):
                        break
                    with shared.changed:
                        shared.changed.wait_for(lambda: shared.closing, RETRY_S)
        finally:
            self._leave()
            shared.end()

    def _turn(self) -> None:
        if self._client is None:
            self._topics.ensure(self._topic)
            self._client = self._join()
        self._do_jobs()
        full = self._shared.full
        self._pause(full)
        polled = self._client.poll(timeout_ms=10 if full else int(WAIT_S * 1000), max_records=FETCHED_AT_ONCE)
        records = [_record(each) for some in polled.values() for each in some]
        for record in records:
            if self._unsettled.get(record.partition, 0) is None:
                self._unsettled[record.partition] = record.offset
        self._shared.read(records)
        if not self._shared.joined:
            self._shared.joined = self._client.group_metadata().state is MemberState.STABLE
        if self._unsettled:
            self._settle()
        if full:
            with self._shared.changed:
                self._shared.changed.wait_for(
                    lambda: self._shared.closing or self._shared.jobs or not self._shared.full, PAUSED_WAIT_S
                )

    def _join(self) -> Any:
        s = self._settings
        client = connect(
            KafkaConsumer,
            s,
            group_id=self._group,
            group_instance_id=s.group_instance_id,
            enable_auto_commit=False,
            auto_offset_reset=s.auto_offset_reset,
            partition_assignment_strategy=[CooperativeStickyAssignor],
            session_timeout_ms=int(s.session_timeout_s * 1000),
            heartbeat_interval_ms=int(min(3.0, s.session_timeout_s / 3) * 1000),
            max_poll_interval_ms=int(s.max_poll_interval_s * 1000),
            fetch_max_bytes=s.fetch_max_bytes,
            max_partition_fetch_bytes=s.partition_fetch_bytes,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        client.subscribe([self._topic], listener=_Listener(self))
        # Makes the client know the topic's partitions before it joins: a leader that does not know them yet assigns
        # nothing to anybody, and may never notice.
        try:
            client.end_offsets([TopicPartition(self._topic, 0)], timeout_ms=int(REQUEST_S * 1000))
        except BaseException:
            client.close(autocommit=False, timeout_ms=0)
            raise
        return client

    def _pause(self, full: bool) -> None:
        """Hold or release all partitions; also newly assigned ones, which always arrive released."""
        owned, held = self._client.assignment(), self._client.paused()
        if full and owned - held:
            self._client.pause(*(owned - held))
        elif not full and held:
            self._client.resume(*held)

    def _settle(self) -> None:
        """Learn where the new partitions were committed; where nowhere, and with `latest`, commit the start.

        Without that commit, whoever takes the partition over before the first one would start at a later end and skip
        what came between.
        """
        for partition, first in list(self._unsettled.items()):
            place = TopicPartition(self._topic, partition)
            committed = self._client.committed(place, timeout_ms=int(REQUEST_S * 1000))
            if committed is None:
                start = self._client.position(place, timeout_ms=int(REQUEST_S * 1000)) if first is None else first
                if start is None:
                    continue  # the broker has not said where the partition ends; the next turn asks again
                if self._settings.auto_offset_reset == "latest":
                    self._store({partition: start})
                committed = start
            # The client's thread may have taken the partition away meanwhile; then its offset is somebody else's.
            if self._unsettled.pop(partition, _GONE) is not _GONE:
                self._committed[partition] = committed

    # --- jobs ---------------------------------------------------------------------------------------------------

    def _do_jobs(self) -> None:
        while self._shared.jobs:
            job, answer = self._shared.jobs.popleft()
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(job(self))
            except Exception as error:
                answer.set_exception(translate(error, self._settings))

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        if next_offsets:
            self._store(next_offsets)
            self._committed.update(next_offsets)

    def _store(self, next_offsets: Mapping[int, int]) -> None:
        self._client.commit(
            {TopicPartition(self._topic, p): OffsetAndMetadata(o, "", -1) for p, o in next_offsets.items()},
            timeout_ms=int(REQUEST_S * 1000),
        )

    def lag(self) -> int:
        committed = dict(self._committed)
        if not committed:
            return 0
        places = [TopicPartition(self._topic, partition) for partition in committed]
        ends = self._client.end_offsets(places, timeout_ms=int(REQUEST_S * 1000))
        return lag_of(committed, {place.partition: end for place, end in ends.items()})

    # --- rebalances (in the client's thread) and failures -----------------------------------------------------------

    def assigned(self, partitions: frozenset[int]) -> None:
        self._unsettled.update(dict.fromkeys(partitions))
        self._shared.assigned(partitions)

    def lost(self, partitions: frozenset[int]) -> None:
        for partition in partitions:
            self._unsettled.pop(partition, None)
            self._committed.pop(partition, None)
        self._shared.lost(partitions)

    def _failed(self, error: Exception) -> None:
        self._shared.failed(translate(error, self._settings))
        if not isinstance(error, kafka_errors.KafkaError | SemiEvolError):
            logger.exception("the Kafka client of %s failed; it is made anew", self._topic)
            self._leave()

    def _leave(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        started = time.monotonic()
        try:
            client.close(autocommit=False, timeout_ms=int(CLOSE_S * 1000))
        except Exception as error:
            logger.warning("left group %s without telling it: %s", self._group, error)
        finally:
            self._shared.lost(self._shared.owned)
            self._shared.joined = False
        logger.debug("left group %s in %.1f s", self._group, time.monotonic() - started)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._reader.assigned(_numbers(assigned))

    def on_partitions_revoked(self, revoked: Any) -> None:
        self._reader.lost(_numbers(revoked))

    def on_partitions_lost(self, lost: Any) -> None:
        self._reader.lost(_numbers(lost))


def _numbers(places: Any) -> frozenset[int]:
    return frozenset(place.partition for place in places)


def _record(record: Any) -> StreamRecord:
    return StreamRecord(
        record.topic,
        record.partition,
        record.offset,
        decode_text(record.key),
        record.value,
        decode_headers(record.headers) if record.headers else {},
        max(0, record.timestamp) / 1000,
    )
