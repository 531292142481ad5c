"""Topics and committed offsets as an administrator sees them: created where missing, measured, moved.

Owns what a created topic looks like. Existing topics are left as they are, whatever their settings. Every call opens a
client of its own and closes it: these are rare, and a client that waits costs a thread and a connection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from semievol.errors import DataError
from semievold.config.streams import KafkaSettings, StreamSettings
from semievold.errors import StateConflict
from semievold.streams.kafka.client.administrator import OpenTransaction, administrator
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
            with administrator(self._kafka) as admin:
                if not admin.exists(topic):
                    admin.create(topic, self._specification(topic))
            self._known.add(topic)

    def missing(self) -> list[str]:
        """Those of the daemon's topics that do not exist yet; raises ConfigError where they could not be created."""
        s = self._settings
        with administrator(self._kafka) as admin:
            wanted = (s.queries, s.labels, s.predictions, s.review, s.dead_letter)
            lacking = [topic for topic in wanted if not admin.exists(topic)]
            for topic in lacking:
                admin.create(topic, self._specification(topic), validate_only=True)
        return lacking

    def offsets(self, topic: str, group: str) -> list[PartitionOffsets]:
        """Of every partition of the topic: the group's commit, or where it would begin, and the end."""
        with administrator(self._kafka) as admin:
            partitions = admin.partitions(topic)
            committed = admin.committed(topic, group, partitions)
            ends = admin.ends(topic, partitions)
            begins = admin.begins(topic, partitions)
        starts = begins if self._kafka.auto_offset_reset == "earliest" else ends
        return [
            PartitionOffsets(number, max(committed.get(number, starts[number]), begins[number]), ends[number])
            for number in partitions
        ]

    def committed(self, topic: str, group: str) -> dict[int, int]:
        """The group's commits, of the partitions that have one."""
        self.ensure(topic)
        with administrator(self._kafka) as admin:
            return admin.committed(topic, group, admin.partitions(topic))

    def open_transaction(self, topic: str) -> str | None:
        """Of the transactions that hold readers of the topic back the one whose producer is silent the longest."""
        with administrator(self._kafka) as admin:
            found = admin.open_transactions(topic, admin.partitions(topic))
        if not found:
            return None
        oldest = min(found, key=lambda each: each.written_at)
        return said_of(oldest, time.time())

    def reset(self, topic: str, group: str, target: ResetTarget) -> None:
        """Move the group's commit on every partition of the topic.

        Raises:
            StateConflict: the group has members; they would overwrite it.
            DataError: the target is not an offset of every partition.
        """
        with administrator(self._kafka) as admin:
            members = admin.members(group)
            if members:
                hosts = ", ".join(sorted(set(members)))
                raise StateConflict(
                    f"consumer group {group} has {len(members)} active members ({hosts}); stop them, or wait "
                    f"{self._kafka.session_timeout_s:.0f} s after a crash, and reset again"
                )
            partitions = admin.partitions(topic)
            if target.kind == "offset" and target.value < 0:
                raise DataError(f"--to: {target.value:.0f} is not an offset; offsets begin at 0")
            admin.reset(topic, group, partitions, target)

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


def said_of(transaction: OpenTransaction, now: float) -> str:
    """What a reader waits for, in one line; `now` in UTC seconds."""
    t = transaction
    whose = "a producer" if t.transactional_id is None else f"the producer {t.transactional_id!r}"
    limit = "its transaction.timeout.ms" if t.timeout_s is None else f"{t.timeout_s:.0f} s (its transaction.timeout.ms)"
    ago_s = max(0.0, now - t.written_at)
    return (
        f"waiting for an open transaction of {whose} on {t.topic}, partition {t.partition}: {t.records} records from "
        f"offset {t.offset} on cannot be read until it ends; its last one there was written {ago_s:.0f} s ago, and the "
        f"broker aborts it {limit} after its begin"
    )


def lag_of(offsets: Mapping[int, int], ends: Mapping[int, int]) -> int:
    """Records between commit and end, over the partitions that both know."""
    return sum(max(0, ends[partition] - offset) for partition, offset in offsets.items() if partition in ends)
