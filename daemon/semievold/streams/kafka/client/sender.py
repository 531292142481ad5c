"""A sender: an idempotent producer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from kafka import KafkaProducer

from semievold.config.streams import KafkaSettings
from semievold.streams.kafka.client.connection import REQUEST_MS, TOO_LARGE, connect, translated
from semievold.streams.protocol import OutgoingRecord

UNLIMITED_BYTES = 64 * 1024 * 1024
"""Whether a record is too large is for its topic to say, not for the client."""


class Addressed(NamedTuple):
    """A record and its topic."""

    topic: str
    record: OutgoingRecord


class Sender:
    """An idempotent producer. Safe to share between threads; its own thread holds what is not delivered yet."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client = connect(KafkaProducer, settings, **options(settings))

    def send(self, topic: str, records: Sequence[OutgoingRecord], deadline: float) -> list[OutgoingRecord]:
        """Send them all and wait, until `time.monotonic` says `deadline`; those too large for the topic come back."""
        with translated(self._settings):
            oversized = sent(self._client, [Addressed(topic, record) for record in records], deadline)
        return [each.record for each in oversized]

    def close(self, timeout_s: float) -> None:
        """Deliver what is held. Raises TransientStreamError when the time was too short: abandon it then."""
        with translated(self._settings):
            self._client.close(timeout=timeout_s)

    def abandon(self, timeout_s: float) -> None:
        """Give up what was not delivered. The client's own `close` would first wait for it, then leave its thread."""
        abandon(self._client, timeout_s)


def options(settings: KafkaSettings) -> dict[str, Any]:
    """What every producer is made with."""
    return {
        "acks": "all",
        "enable_idempotence": True,  # explicit: a conflict with other settings is then an error
        "delivery_timeout_ms": int(settings.delivery_timeout_s * 1000),
        "max_block_ms": REQUEST_MS,
        "max_request_size": UNLIMITED_BYTES,
        "compression_type": None if settings.compression == "none" else settings.compression,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }


def abandon(client: Any, timeout_s: float) -> None:
    """Stop a producer without waiting for what it holds."""
    client._sender.force_close()
    client._sender.join(timeout_s)


def sent(client: Any, records: Sequence[Addressed], deadline: float) -> list[Addressed]:
    """Send them all with a client of kafka-python and wait; those that are too large for their topic come back."""
    oversized = []
    for future, each in [(client.send(each.topic, **_encoded(each.record)), each) for each in records]:
        try:
            future.get(timeout=max(0.0, deadline - time.monotonic()))
        except TOO_LARGE:
            oversized.append(each)
    return oversized


def _encoded(record: OutgoingRecord) -> dict[str, Any]:
    """What kafka-python's `send` takes of a record."""
    headers = [(name, text.encode("utf-8", "surrogatepass")) for name, text in record.headers.items()]
    key = None if record.key is None else record.key.encode("utf-8", "surrogatepass")
    return {"value": record.value, "key": key, "headers": headers}
