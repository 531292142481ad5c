"""How a client of Kafka is made, and what its errors mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from semievol.errors import ConfigError, SemiEvolError
from semievold.config.streams import KafkaSettings
from semievold.errors import RecordRefused, TransientStreamError
from semievold.streams.kafka.tls import tls_context

BOOTSTRAP_S = 10.0
REQUEST_S = 10.0
RECONNECT_S = 1.0
"""The client's longest wait between two attempts to reach a broker: what a returned broker waits at most."""
REQUEST_MS = int(REQUEST_S * 1000)

NO_CODEC = "compression codec not found"
"""What kafka-python says, in errors of different types, of records that it can neither read nor write."""
CODECS = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}

T = TypeVar("T")

TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_REFUSED = (*TOO_LARGE, kafka_errors.InvalidRecordError)
_UNAUTHENTICATED = (
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)
_CONFIGURATION = (
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


class GroupRebalances(TransientStreamError):  # noqa: N818 - named by meaning
    """The consumer group is sharing its partitions out anew: it takes no commit until its members have polled."""


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
    if isinstance(error, kafka_errors.TransactionalIdAuthorizationFailedError):  # an AuthorizationError, too
        return ConfigError(
            f"stream.kafka.exactly_once: {settings.sasl_username or 'this client'} may not write in transactions at "
            f"{servers}; grant WRITE and DESCRIBE on transactional ids that begin with {settings.group_prefix}semievol-"
        )
    if isinstance(error, kafka_errors.AuthorizationError):
        user = settings.sasl_username or "this client"
        return ConfigError(f"stream.kafka: {user} has no permission at {servers} ({said}); grant it the missing right")
    if "InvalidTransactionTimeoutError" in said:  # wrapped in another
        return ConfigError(
            f"stream.kafka.transaction_timeout_s: {settings.transaction_timeout_s:g} s are more than the broker at "
            f"{servers} allows; set less, or raise its transaction.max.timeout.ms"
        )
    if NO_CODEC in said:
        codec = next((name for name in CODECS if name in said), "unknown")
        return ConfigError(
            f"stream.kafka: no package for the compression {codec} is installed; it comes with pip install "
            f"'semievol[kafka]' (here: {CODECS.get(codec, 'unknown')})"
        )
    if isinstance(error, _CONFIGURATION):
        return ConfigError(f"stream.kafka: the broker at {servers} or its client refuses a setting: {said}")
    if isinstance(error, _REFUSED):
        return RecordRefused(said)
    kind = TransientStreamError if isinstance(error, kafka_errors.KafkaError) else ClientFailed
    if isinstance(error, kafka_errors.RebalanceInProgressError):
        kind = GroupRebalances
    return kind(f"Kafka at {servers}: {said}")


def _connection(settings: KafkaSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "client_id": settings.client_id,
        "security_protocol": settings.security_protocol,
        "request_timeout_ms": REQUEST_MS,
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
