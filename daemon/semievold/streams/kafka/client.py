"""kafka-python, and all that is known of it: the one file that imports it (decision 8).

Owns the connection (security, time limits), what each error means, the calls that kafka-python does not document, and
three clients in the project's own terms: member of a group, sender, administrator. Owns no thread, no buffer and
no decision about a topic.
Invariant: what is raised here is an error of ours; a client that could not be made leaves no thread behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from semievol.errors import ConfigError, SemiEvolError
from semievold.config.streams import KafkaSettings
from semievold.errors import RecordRefused, TransientStreamError
from semievold.streams.kafka.tls import tls_context
from semievold.streams.protocol import OutgoingRecord, ResetTarget, StreamRecord

try:
    from kafka import (
        ConsumerRebalanceListener,
        KafkaAdminClient,
        KafkaConsumer,
        KafkaProducer,
        OffsetAndMetadata,
        TopicPartition,
    )
    from kafka import errors as kafka_errors
    from kafka.admin import OffsetSpec, OffsetTimestamp
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
    from kafka.net.compat import KafkaNetClient
    from kafka.net.manager import KafkaConnectionManager
    from kafka.net.selector import NetworkSelector
    from kafka.structs import MemberState
except ImportError as missing:
    raise ConfigError("stream.kind: kafka needs the package kafka-python: pip install 'semievol[kafka]'") from missing

BOOTSTRAP_S = 10.0
REQUEST_S = 10.0
RECONNECT_S = 1.0
"""The client's longest wait between two attempts to reach a broker: what a returned broker waits at most."""
UNLIMITED_BYTES = 64 * 1024 * 1024
"""Whether a record is too large is for its topic to say, not for the client."""
_REQUEST_MS = int(REQUEST_S * 1000)

T = TypeVar("T")

_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_REFUSED = (*_TOO_LARGE, kafka_errors.InvalidRecordError)
_UNAUTHENTICATED = (
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)
_CONFIGURATION = (
    kafka_errors.AuthorizationError,
    kafka_errors.KafkaConfigurationError,
    kafka_errors.UnsupportedCodecError,
    kafka_errors.InvalidSessionTimeoutError,
    kafka_errors.InconsistentGroupProtocolError,
    kafka_errors.InvalidGroupIdError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InvalidReplicationFactorError,
    kafka_errors.InvalidConfigurationError,
    kafka_errors.PolicyViolationError,
    kafka_errors.UnsupportedVersionError,
)


class ClientFailed(TransientStreamError):  # noqa: N818 - named by meaning
    """The client raised what is no error of Kafka's: whoever holds it makes a new one."""


# --- a member of a consumer group -----------------------------------------------------------------------------------


class PartitionListener(Protocol):
    """Told by the client's own thread, while the reading one waits inside `poll`."""

    def assigned(self, partitions: frozenset[int]) -> None: ...

    def lost(self, partitions: frozenset[int]) -> None: ...


class GroupMember:
    """A consumer of one topic; for one thread alone. Blocks until a broker answered."""

    def __init__(self, settings: KafkaSettings, topic: str, group: str, listener: PartitionListener) -> None:
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
            offset: int | None = self._client.committed(self._place(partition), timeout_ms=_REQUEST_MS)
        return offset

    def position(self, partition: int) -> int | None:
        """The next offset to be read; None while the broker has not said where the partition begins or ends."""
        with translated(self._settings):
            offset: int | None = self._client.position(self._place(partition), timeout_ms=_REQUEST_MS)
        return offset

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        offsets = {self._place(number): OffsetAndMetadata(offset, "", -1) for number, offset in next_offsets.items()}
        with translated(self._settings):
            self._client.commit(offsets, timeout_ms=_REQUEST_MS)

    def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """The offset after the last record of each partition."""
        places = [self._place(partition) for partition in partitions]
        with translated(self._settings):
            ends = self._client.end_offsets(places, timeout_ms=_REQUEST_MS)
        return {place.partition: end for place, end in ends.items()}

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


# --- a sender -------------------------------------------------------------------------------------------------------


class Sender:
    """An idempotent producer. Safe to share between threads; its own thread holds what is not delivered yet."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client = connect(
            KafkaProducer,
            settings,
            acks="all",
            enable_idempotence=True,  # explicit: a conflict with other settings is then an error
            delivery_timeout_ms=int(settings.delivery_timeout_s * 1000),
            max_block_ms=_REQUEST_MS,
            max_request_size=UNLIMITED_BYTES,
            compression_type=None if settings.compression == "none" else settings.compression,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def send(self, topic: str, records: Sequence[OutgoingRecord], deadline: float) -> list[OutgoingRecord]:
        """Send them all and wait, until `time.monotonic` says `deadline`; those too large for the topic come back."""
        oversized = []
        with translated(self._settings):
            sent = [(self._client.send(topic, **_encoded(record)), record) for record in records]
            for future, record in sent:
                try:
                    future.get(timeout=max(0.0, deadline - time.monotonic()))
                except _TOO_LARGE:
                    oversized.append(record)
        return oversized

    def close(self, timeout_s: float) -> None:
        """Deliver what is held. Raises TransientStreamError when the time was too short: abandon it then."""
        with translated(self._settings):
            self._client.close(timeout=timeout_s)

    def abandon(self, timeout_s: float) -> None:
        """Give up what was not delivered. The client's own `close` would first wait for it, then leave its thread."""
        self._client._sender.force_close()
        self._client._sender.join(timeout_s)


def _encoded(record: OutgoingRecord) -> dict[str, Any]:
    headers = [(name, text.encode("utf-8", "surrogatepass")) for name, text in record.headers.items()]
    key = None if record.key is None else record.key.encode("utf-8", "surrogatepass")
    return {"value": record.value, "key": key, "headers": headers}


# --- an administrator -----------------------------------------------------------------------------------------------


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
        return self._offsets(topic, partitions, OffsetSpec.LATEST)

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

    def _offsets(self, topic: str, partitions: Iterable[int], which: Any) -> dict[int, int]:
        found = self._client.list_partition_offsets(dict.fromkeys(_places(topic, partitions), which))
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


# --- connections and errors -----------------------------------------------------------------------------------------


def connect(kind: Callable[..., T], settings: KafkaSettings, **options: Any) -> T:
    """Make a consumer, producer or admin client; blocks until a broker answered, at most BOOTSTRAP_S.

    Raises:
        TransientStreamError: no broker answered.
        ConfigError: a broker refused these settings, or they cannot be used.
    """
    witness: _Witness | None = None

    def client(**configs: Any) -> Any:
        nonlocal witness
        net = NetworkSelector(**configs)
        witness = _Witness(net, **configs)
        return KafkaNetClient(net=net, manager=witness)

    try:
        return kind(
            bootstrap_timeout_ms=int(BOOTSTRAP_S * 1000),
            kafka_client=client,
            **_connection(settings),
            **options,
        )
    except Exception as error:
        if witness is not None:
            witness.close()
            witness.net.close()
            # The bootstrap only says that its time was up; why is what its last connection met.
            if isinstance(error, kafka_errors.KafkaTimeoutError) and witness.last_failure is not None:
                raise translate(witness.last_failure, settings) from error
        raise translate(error, settings) from error


@contextmanager
def translated(settings: KafkaSettings) -> Iterator[None]:
    """Errors of the client become ours (see `translate`)."""
    try:
        yield
    except SemiEvolError:
        raise
    except Exception as error:
        raise translate(error, settings) from error


def translate(error: Exception, settings: KafkaSettings) -> SemiEvolError:
    """ConfigError for what a person must mend, RecordRefused for a record, TransientStreamError for the rest."""
    if isinstance(error, SemiEvolError):
        return error
    servers = ", ".join(settings.bootstrap_servers)
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, _UNAUTHENTICATED):
        return ConfigError(
            f"stream.kafka.sasl_username: the broker at {servers} refuses it with {settings.sasl_mechanism} ({said}); "
            "check sasl_username, sasl_password and sasl_mechanism"
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return ConfigError(
            f"stream.kafka.tls_ca: the certificate of the broker at {servers} is not trusted ({said}); name the "
            "PEM file of the authority that signed it"
        )
    if isinstance(error, kafka_errors.FencedInstanceIdError):
        return ConfigError(
            f"stream.kafka.group_instance_id: another process uses {settings.group_instance_id!r}; give each its own"
        )
    if isinstance(error, kafka_errors.AuthorizationError):
        user = settings.sasl_username or "this client"
        return ConfigError(f"stream.kafka: {user} has no permission at {servers} ({said}); grant it the missing right")
    if isinstance(error, _CONFIGURATION):
        return ConfigError(f"stream.kafka: the broker at {servers} or its client refuses a setting: {said}")
    if isinstance(error, _REFUSED):
        return RecordRefused(said)
    kind = TransientStreamError if isinstance(error, kafka_errors.KafkaError) else ClientFailed
    return kind(f"Kafka at {servers}: {said}")


def _connection(settings: KafkaSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "client_id": settings.client_id,
        "security_protocol": settings.security_protocol,
        "request_timeout_ms": _REQUEST_MS,
        "reconnect_backoff_max_ms": int(RECONNECT_S * 1000),
    }
    if settings.security_protocol.startswith("SASL_"):
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = settings.sasl_password
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = tls_context(settings)
    return options


class _Witness(KafkaConnectionManager):  # type: ignore[misc]
    """Remembers why the last connection failed; the client itself tries on silently until its time is up.

    A refused password ends the attempt: asking again would only lock the account.
    """

    def __init__(self, net: Any, **configs: Any) -> None:
        super().__init__(net, **configs)
        self.net = net
        self.last_failure: Exception | None = None

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.last_failure, _UNAUTHENTICATED):
            raise self.last_failure
        connection = super().get_connection(*args, **kwargs)
        connection.init_future.add_errback(self._remember)
        return connection

    def _remember(self, error: Exception) -> None:
        self.last_failure = error
