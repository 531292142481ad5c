"""Topics and committed offsets as an administrator sees them: created where missing, measured, moved.

Owns what a created topic looks like. Existing topics are left as they are, whatever their settings. Every call opens a
client of its own and closes it: these are rare, and a client that waits costs a thread and a connection.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import OffsetSpec, OffsetTimestamp

from semievol.errors import ConfigError, DataError
from semievold.config.streams import KafkaSettings, StreamSettings
from semievold.errors import StateConflict, TransientStreamError
from semievold.streams.kafka.client import connect, translated
from semievold.streams.protocol import PartitionOffsets, ResetTarget

TOMBSTONE_S = 7 * 24 * 3600
"""A retraction stays readable at least this long on the compacted labels topic: the longest that labels may be away."""
HEADER_ROOM_BYTES = 64 * 1024
"""A created topic takes the largest record that is processed, and a dead letter's headers on top."""


class KafkaTopics:
    """The topics of one daemon on one cluster."""

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self._known: set[str] = set()
        self._making = threading.Lock()

    @property
    def _kafka(self) -> KafkaSettings:
        return self._settings.kafka

    def ensure(self, topic: str) -> None:
        """Create the topic unless it exists; asked once per topic and process.

        Raises:
            TransientStreamError: no broker answered.
            ConfigError: this client may not see or not create it, or the broker refuses its settings.
        """
        with self._making:
            if topic in self._known:
                return
            with self._admin() as admin:
                if not self._exists(admin, topic):
                    self._create(admin, topic)
            self._known.add(topic)

    def missing(self) -> list[str]:
        """Those of the daemon's topics that do not exist yet; raises ConfigError where they could not be created."""
        s = self._settings
        with self._admin() as admin:
            wanted = (s.queries, s.labels, s.predictions, s.review, s.dead_letter)
            lacking = [topic for topic in wanted if not self._exists(admin, topic)]
            for topic in lacking:
                self._create(admin, topic, validate_only=True)
        return lacking

    def offsets(self, topic: str, group: str) -> list[PartitionOffsets]:
        """Of every partition of the topic: the group's commit, or where it would begin, and the end."""
        with self._admin() as admin:
            partitions = self._partitions(admin, topic)
            committed = admin.list_group_offsets({group: partitions}).get(group, {})
            ends = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
            begins = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
        found = []
        for partition in partitions:
            stored = committed[partition].offset if partition in committed else -1
            if stored < 0:
                stored = (begins if self._kafka.auto_offset_reset == "earliest" else ends)[partition].offset
            found.append(
                PartitionOffsets(partition.partition, max(stored, begins[partition].offset), ends[partition].offset)
            )
        return found

    def reset(self, topic: str, group: str, target: ResetTarget) -> None:
        """Move the group's commit on every partition of the topic.

        Raises:
            StateConflict: the group has members; they would overwrite it.
            DataError: the target is not an offset of every partition.
        """
        with self._admin() as admin:
            members = admin.describe_groups([group])[group]["members"]
            if members:
                hosts = ", ".join(sorted({f"{m['client_id']}{m['client_host']}" for m in members}))
                raise StateConflict(
                    f"consumer group {group} has {len(members)} active members ({hosts}); stop them, or wait "
                    f"{self._kafka.session_timeout_s:.0f} s after a crash, and reset again"
                )
            partitions = self._partitions(admin, topic)
            wanted = dict.fromkeys(partitions, _specification(target))
            done = admin.reset_group_offsets(group, wanted)
            for partition, result in done.items():
                if result["error"] is not kafka_errors.NoError:
                    raise result["error"](f"{partition.topic}-{partition.partition}")

    @contextmanager
    def _admin(self) -> Iterator[Any]:
        admin = connect(KafkaAdminClient, self._kafka)
        try:
            with translated(self._kafka):
                yield admin
        finally:
            admin.close()

    def _exists(self, admin: Any, topic: str) -> bool:
        error = kafka_errors.for_code(admin.describe_topics([topic])[0]["error_code"])
        if error is kafka_errors.TopicAuthorizationFailedError:
            raise ConfigError(
                f"stream.kafka: no permission to see topic {topic}; grant DESCRIBE, READ and WRITE on the five topics"
            )
        return error is not kafka_errors.UnknownTopicOrPartitionError

    def _partitions(self, admin: Any, topic: str) -> list[Any]:
        described = admin.describe_topics([topic])[0]
        if not described["partitions"]:
            raise TransientStreamError(f"topic {topic} does not exist yet")
        return [
            TopicPartition(topic, number) for number in sorted(p["partition_index"] for p in described["partitions"])
        ]

    def _create(self, admin: Any, topic: str, *, validate_only: bool = False) -> None:
        answer = admin.create_topics(
            {topic: self._specification(topic)},
            validate_only=validate_only,
            raise_errors=False,
        )["topics"][0]
        error = kafka_errors.for_code(answer["error_code"])
        if error in (kafka_errors.TopicAuthorizationFailedError, kafka_errors.ClusterAuthorizationFailedError):
            raise ConfigError(
                f"stream.kafka: no permission to create topic {topic}; grant CREATE, or create it beforehand "
                f"(settings: {self._specification(topic)})"
            )
        if error not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
            raise error(f"topic {topic}: {answer['error_message']}")
        if not validate_only:
            admin.wait_for_topics([topic])

    def _specification(self, topic: str) -> dict[str, Any]:
        configs: dict[str, str] = {
            "max.message.bytes": str(self._settings.max_record_bytes + HEADER_ROOM_BYTES),
        }
        if topic == self._settings.labels:
            # Keyed by id, the newest counts, a null value takes back: just what compaction keeps.
            configs |= {"cleanup.policy": "compact", "delete.retention.ms": str(TOMBSTONE_S * 1000)}
        elif self._kafka.retention_s is not None:
            configs["retention.ms"] = str(int(self._kafka.retention_s * 1000))
        return {
            "num_partitions": self._kafka.partitions,
            "replication_factor": self._kafka.replication_factor or -1,
            "configs": configs,
        }


def _specification(target: ResetTarget) -> Any:
    if target.kind == "timestamp":
        return OffsetTimestamp(int(target.value * 1000))
    if target.kind == "offset":
        if target.value < 0:
            raise DataError(f"--to: {target.value:.0f} is not an offset; offsets begin at 0")
        return int(target.value)
    return OffsetSpec.EARLIEST if target.kind == "earliest" else OffsetSpec.LATEST


def lag_of(offsets: Mapping[int, int], ends: Mapping[int, int]) -> int:
    """Records between commit and end, over the partitions that both know."""
    return sum(max(0, ends[partition] - offset) for partition, offset in offsets.items() if partition in ends)
