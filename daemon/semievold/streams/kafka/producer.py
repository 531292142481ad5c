"""Writes to Kafka: an idempotent producer whose `publish` returns when every record is on all in-sync replicas.

The client sends from a thread of its own; handing records over and waiting for them happens in a small pool of ours,
so that a broker that is away blocks neither the event loop nor the pool that the database uses.
Invariant: a record that its topic can never take ends in RecordRefused, except a dead letter, which is cut to fit.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from semievol.errors import SemiEvolError
from semievold.config.streams import KafkaSettings, StreamSettings
from semievold.errors import RecordRefused
from semievold.streams.kafka.client.sender import Sender
from semievold.streams.kafka.topics import KafkaTopics
from semievold.streams.protocol import CUT_HEADER, DEAD_LETTER_HEADERS, OutgoingRecord

logger = logging.getLogger(__name__)

THREADS = 4
CLOSE_S = 5.0
GRACE_S = 5.0
"""The client itself gives a record up after the delivery timeout; ours comes after it."""
DROPPED_HEADER = "headers_dropped"
"""On a dead letter that did not fit without its value either: how many of the original headers are missing."""
_OUR_HEADERS = (*DEAD_LETTER_HEADERS, CUT_HEADER, DROPPED_HEADER)


class KafkaStreamProducer:
    """See semievold.streams.protocol.StreamProducer. Connects with the first publish."""

    def __init__(self, settings: StreamSettings, topics: KafkaTopics) -> None:
        self._settings = settings
        self._topics = topics
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="kafka-publish")
        self._opening = threading.Lock()
        self._client: Sender | None = None

    @property
    def _kafka(self) -> KafkaSettings:
        return self._settings.kafka

    async def publish(self, topic: str, records: Sequence[OutgoingRecord]) -> None:
        if records:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._publish, topic, records)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    # --- in a thread of the pool --------------------------------------------------------------------------------

    def _publish(self, topic: str, records: Sequence[OutgoingRecord]) -> None:
        self._topics.ensure(topic)
        for record in self._send(topic, records):
            self._send_alone(topic, record)  # it may only have shared the fate of a larger one

    def _send_alone(self, topic: str, record: OutgoingRecord) -> None:
        while self._send(topic, [record]):
            record = smaller(topic, record, self._settings.dead_letter)

    def _send(self, topic: str, records: Sequence[OutgoingRecord]) -> list[OutgoingRecord]:
        """Send them all and wait; those that are too large for the topic come back."""
        client = self._open()
        deadline = time.monotonic() + self._kafka.delivery_timeout_s + GRACE_S
        try:
            oversized = client.send(topic, records, deadline)
        except RecordRefused as refused:
            hint = "a compacted topic takes no record without a key"
            raise RecordRefused(f"topic {topic}: {refused} ({hint})") from refused
        except SemiEvolError:
            self._drop(client)  # what it still holds would be delivered some day, beside the caller's next attempt
            raise
        if oversized:
            self._drop(client)  # until it has a new epoch, it would refuse whatever follows with the same error
        return oversized

    def _drop(self, client: Sender) -> None:
        with self._opening:
            if self._client is client:
                self._client = None
        client.abandon(CLOSE_S)

    def _open(self) -> Sender:
        with self._opening:
            if self._client is None:
                self._client = Sender(self._kafka)
            return self._client

    def _close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._opening:
            client, self._client = self._client, None
        if client is None:
            return
        try:
            client.close(CLOSE_S)
        except SemiEvolError as error:
            logger.warning("records were given up when the Kafka producer closed: %s", error)
            client.abandon(CLOSE_S)


def smaller(topic: str, record: OutgoingRecord, dead_letter: str) -> OutgoingRecord:
    """What is tried instead of a record that is too large for its topic: a dead letter is cut.

    Raises:
        RecordRefused: it is another's than the topic `dead_letter`, or nothing of it is left to cut.
    """
    if topic != dead_letter:
        raise _too_large(topic, record)
    return _cut(topic, record)


def _too_large(topic: str, record: OutgoingRecord) -> RecordRefused:
    """The error of a record that its topic never takes."""
    return RecordRefused(
        f"topic {topic}: the record with key {record.key!r} has {len(record.value or b''):,} bytes, and the topic "
        "takes less; raise its max.message.bytes"
    )


def _cut(topic: str, letter: OutgoingRecord) -> OutgoingRecord:
    """The letter with half its value; where nothing is left of that, without the record's own headers.

    A header of ours says so.
    """
    value = letter.value or b""
    if len(value) >= 2:
        headers = {CUT_HEADER: str(len(value)), **letter.headers}  # the first cut's header stays: the original length
        return OutgoingRecord(letter.key, value[: len(value) // 2], headers)
    kept = {name: letter.headers[name] for name in _OUR_HEADERS if name in letter.headers}
    if len(kept) == len(letter.headers):
        raise _too_large(topic, letter)
    return OutgoingRecord(letter.key, letter.value, {**kept, DROPPED_HEADER: str(len(letter.headers) - len(kept))})
