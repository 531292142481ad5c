"""A sender in transactions: records and the offsets of a group become visible together, or not at all.

The transaction's calls of kafka-python wait without a limit; here each has one (`TransactionalSender.commit`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from semievold.config.streams import KafkaSettings
from semievold.streams.kafka.client.connection import connect, translated
from semievold.streams.kafka.client.sender import Addressed, abandon, options, sent


class TransactionalSender:
    """The one producer that a transactional.id has: making it ends the transaction of an earlier one, and fences it.

    For one thread at a time. After any error its transaction is undecided: `abandon` it and make a new one.

    Raises:
        TransientStreamError: no broker answered, or an earlier transaction is still being ended.
        ConfigError: this client may not use the id, or the broker does not allow so long a transaction.
    """

    def __init__(self, settings: KafkaSettings, transactional_id: str) -> None:
        self._settings = settings
        self._client = connect(
            KafkaProducer,
            settings,
            transactional_id=transactional_id,
            transaction_timeout_ms=int(settings.transaction_timeout_s * 1000),
            **{
                **options(settings),
                "delivery_timeout_ms": int(min(settings.delivery_timeout_s, settings.transaction_timeout_s) * 1000),
            },
        )
        try:
            with translated(settings):
                self._client.init_transactions()
        except BaseException:
            self.abandon(0.0)
            raise

    def commit(
        self,
        records: Sequence[Addressed],
        topic: str,
        next_offsets: Mapping[int, int],
        member: Any,
        deadline: float,
    ) -> list[Addressed]:
        """One transaction of the records and {partition of `topic`: next offset to read}, until `deadline`.

        `member` is who reads that topic (GroupMember.identity): the broker refuses offsets of a member that left its
        group or has missed a rebalance since. `deadline` is as `time.monotonic` says it.

        Returns:
            Records that may be too large for their topic; then nothing was committed.

        Raises:
            TransientStreamError: it was not committed, or nobody knows.
        """
        offsets = {
            TopicPartition(topic, number): OffsetAndMetadata(offset, "", -1) for number, offset in next_offsets.items()
        }
        manager = self._client._transaction_manager
        with translated(self._settings):
            self._client.begin_transaction()
            if oversized := sent(self._client, records, deadline):  # one that failed does not always fail the rest
                return oversized
            self._wait(manager.send_offsets_to_transaction(offsets, member), deadline)
            self._wait(manager.begin_commit(), deadline)
        return []

    def _wait(self, result: Any, deadline: float) -> None:
        self._client._sender.wakeup()
        if not result.wait(timeout_ms=max(0.0, deadline - time.monotonic()) * 1000):
            raise kafka_errors.KafkaTimeoutError("the broker did not answer in the time of a transaction")

    def abandon(self, timeout_s: float) -> None:
        """Leave without ending anything: the next sender of this id, or the broker, ends what is open."""
        abandon(self._client, timeout_s)
