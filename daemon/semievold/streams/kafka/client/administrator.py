"""Topics, offsets of groups and open transactions, as an administrator sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from kafka import IsolationLevel, KafkaAdminClient, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import OffsetSpec, OffsetTimestamp

from semievol.errors import ConfigError
from semievold.config.streams import KafkaSettings
from semievold.errors import TransientStreamError
from semievold.streams.kafka.client.connection import connect, translated
from semievold.streams.protocol import ResetTarget


class OpenTransaction(NamedTuple):
    """A transaction that has not ended: nobody reads past its first record.

    `records`: written from there on, its own included. `written_at`: UTC seconds of its producer's last record there.
    `transactional_id` and `timeout_s`, after which the broker ends it, are None where they may not be seen.
    """

    topic: str
    partition: int
    offset: int
    records: int
    written_at: float
    transactional_id: str | None
    timeout_s: float | None


class Administrator:
    """Topics and the offsets of groups. Every call blocks until the broker answered."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def exists(self, topic: str) -> bool:
        error = kafka_errors.for_code(self._client.describe_topics([topic])[0]["error_code"])
        if error is kafka_errors.TopicAuthorizationFailedError:
            raise ConfigError(
                f"stream.kafka: no permission to see topic {topic}; grant DESCRIBE, READ and WRITE on the five topics"
            )
        return error is not kafka_errors.UnknownTopicOrPartitionError

    def create(self, topic: str, specification: Mapping[str, Any], *, validate_only: bool = False) -> None:
        """Create the topic, or ask whether that could be done; one that exists is left as it is."""
        wanted = {topic: dict(specification)}
        answers = self._client.create_topics(wanted, validate_only=validate_only, raise_errors=False)
        answer = answers["topics"][0]
        error = kafka_errors.for_code(answer["error_code"])
        if error in (kafka_errors.TopicAuthorizationFailedError, kafka_errors.ClusterAuthorizationFailedError):
            raise ConfigError(
                f"stream.kafka: no permission to create topic {topic}; grant CREATE, or create it beforehand "
                f"(settings: {specification})"
            )
        if error not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
            raise error(f"topic {topic}: {answer['error_message']}")
        if not validate_only:
            self._client.wait_for_topics([topic])

    def partitions(self, topic: str) -> list[int]:
        described = self._client.describe_topics([topic])[0]
        if not described["partitions"]:
            raise TransientStreamError(f"topic {topic} does not exist yet")
        return sorted(partition["partition_index"] for partition in described["partitions"])

    def committed(self, topic: str, group: str, partitions: Iterable[int]) -> dict[int, int]:
        """The group's commits, of the partitions that have one."""
        places = _places(topic, partitions)
        found = self._client.list_group_offsets({group: places}).get(group, {})
        return {place.partition: stored.offset for place, stored in found.items() if stored.offset >= 0}

    def begins(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        return self._offsets(topic, partitions, OffsetSpec.EARLIEST)

    def ends(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The offset after the last record that can be read: before the first open transaction."""
        return self._offsets(topic, partitions, OffsetSpec.LATEST)

    def open_transactions(self, topic: str, partitions: Iterable[int]) -> list[OpenTransaction]:
        """The oldest open transaction of each partition that has one."""
        partitions = list(partitions)
        ends = self.ends(topic, partitions)
        written = self._offsets(topic, partitions, OffsetSpec.LATEST, IsolationLevel.READ_UNCOMMITTED)
        held = [number for number in partitions if ends[number] < written[number]]
        described = self._client.describe_producers(_places(topic, held)) if held else {}
        found = []
        for place, state in described.items():
            # A transaction that ended meanwhile has no first record any more.
            began = [each for each in state.active_producers if each.current_transaction_start_offset >= 0]
            if began:
                oldest = min(began, key=lambda each: each.current_transaction_start_offset)
                behind = written[place.partition] - oldest.current_transaction_start_offset
                found.append(
                    OpenTransaction(
                        topic,
                        place.partition,
                        oldest.current_transaction_start_offset,
                        behind,
                        oldest.last_timestamp / 1000,
                        *self._transaction_of(oldest.producer_id),
                    )
                )
        return found

    def unfinished(self) -> set[str]:
        """The transactional.ids, of those that this client may see, whose transaction has not ended."""
        listed = self._client.list_transactions(state_filters=["Ongoing", "PrepareCommit", "PrepareAbort"])
        return {each.transactional_id for some in listed.values() for each in some}

    def _transaction_of(self, producer_id: int) -> tuple[str | None, float | None]:
        """Its transactional.id and time limit in seconds; None where this client may not see them."""
        try:
            listed = self._client.list_transactions(producer_id_filters=[producer_id])
            [name] = {each.transactional_id for some in listed.values() for each in some}
            return name, self._client.describe_transactions([name])[name].transaction_timeout_ms / 1000
        except (kafka_errors.AuthorizationError, kafka_errors.TransactionalIdNotFoundError, ValueError):
            return None, None

    def members(self, group: str) -> list[str]:
        """Client name and host of each active member of the group."""
        members = self._client.describe_groups([group])[group]["members"]
        return [f"{member['client_id']}{member['client_host']}" for member in members]

    def reset(self, topic: str, group: str, partitions: Iterable[int], target: ResetTarget) -> None:
        """Move the group's commits."""
        wanted = dict.fromkeys(_places(topic, partitions), _specification(target))
        for place, result in self._client.reset_group_offsets(group, wanted).items():
            if result["error"] is not kafka_errors.NoError:
                raise result["error"](f"{place.topic}-{place.partition}")

    def _offsets(
        self, topic: str, partitions: Iterable[int], which: Any, level: Any = IsolationLevel.READ_COMMITTED
    ) -> dict[int, int]:
        found = self._client.list_partition_offsets(dict.fromkeys(_places(topic, partitions), which), level)
        return {place.partition: each.offset for place, each in found.items()}


@contextmanager
def administrator(settings: KafkaSettings) -> Iterator[Administrator]:
    """Connects for a few calls and closes; what the client raises inside becomes an error of ours."""
    client = connect(KafkaAdminClient, settings)
    try:
        with translated(settings):
            yield Administrator(client)
    finally:
        client.close()


def _places(topic: str, partitions: Iterable[int]) -> list[Any]:
    return [TopicPartition(topic, partition) for partition in partitions]


def _specification(target: ResetTarget) -> Any:
    if target.kind == "timestamp":
        return OffsetTimestamp(int(target.value * 1000))
    if target.kind == "offset":
        return int(target.value)
    return OffsetSpec.EARLIEST if target.kind == "earliest" else OffsetSpec.LATEST
