"""Clients' words as records of the labels topic, and those that wait until the intake has answered their query.

Owns when a word is joined, and what ends its waiting. Invariant: a word becomes a record of the very query that was
captured, with the source and the client that the service knows; one that cannot is told as refused or expired.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import pydantic_core

from semievol.errors import DataError, SemiEvolError
from semievol.examples.records import query_to_json, said_once
from semievol.types import Example, Query
from semievold.config.fronts import FeedbackConfig
from semievold.config.streams import RetrySettings
from semievold.errors import PoisonRecord, Reason, RecordRefused
from semievold.intake.messages import CLIENT_HEADER, RecordParser, denial_record, label_record
from semievold.monitoring.metrics import Metrics
from semievold.retry import Health, Stopped, set_within, until_answered
from semievold.store.examples import FEEDBACK
from semievold.store.feedback import Word
from semievold.store.stores import Stores
from semievold.store.waiting_feedback import Standing, Waiting
from semievold.streams.protocol import OutgoingRecord, StreamProducer, StreamRecord

AT_ONCE = 200
LOOK_S = 1.0
"""How often the state is asked whether queries were answered."""
TIDY_S = 60.0

T = TypeVar("T")

log = logging.getLogger(__name__)


def labelled(parser: RecordParser, asked: Mapping[str, Any], answer: object) -> Example:
    """The example that feedback on a query makes; `asked`: id and question or messages, as in a record.

    Raises:
        PoisonRecord: naming the field and the fix.
    """
    said = {} if answer is None else {"answer": answer}
    return parser.example({**asked, **said, "source": FEEDBACK})


def asked_query(parser: RecordParser, asked: Mapping[str, Any]) -> Query:
    """The query of id and question or messages, as in a record.

    Raises:
        PoisonRecord: naming the field and the fix.
    """
    return parser.query(StreamRecord("", 0, 0, None, pydantic_core.to_json(asked), {}, 0.0))


def fields_of(query: Query) -> dict[str, Any]:
    """The query as in a record."""
    return said_once(query, query_to_json(query))


def record_of(parser: RecordParser, query: Query, word: Word, client: str) -> OutgoingRecord:
    """What the labels topic is told, under a key of the client's own: of one key a compacted topic keeps the newest
    record alone, and that must not be another client's word, nor an operator's label of the id.

    Raises:
        PoisonRecord: the task has no such answer to the query.
    """
    label = labelled(parser, fields_of(query), word.answer)
    record = (denial_record if word.against else label_record)(label, {CLIENT_HEADER: client})
    return record._replace(key=f"{FEEDBACK}:{client}:{label.id}")


class WaitingWords:
    """Joins what waits; in every gateway, so that none of them alone has to live."""

    def __init__(
        self,
        settings: FeedbackConfig,
        topic: str,
        stores: Stores,
        parser: RecordParser,
        producer: StreamProducer,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._stores = stores
        self._parser = parser
        self._producer = producer
        self._metrics = metrics
        self.health = Health()

    async def run(self, stop: asyncio.Event) -> None:
        """An eternal task."""
        tidied = 0.0
        while not stop.is_set():
            try:
                joined = await self._answered(self.join, stop)
                if time.monotonic() - tidied > TIDY_S:
                    await self._answered(self.tidy, stop)
                    tidied = time.monotonic()
            except Stopped:
                return
            if joined < AT_ONCE:
                await set_within(stop, LOOK_S)

    async def join(self) -> int:
        """Make records of the words whose query is answered; how many were looked at.

        Two gateways may publish the same word: it is one to the labels role.

        Raises:
            TransientError: the state or the stream does not answer.
        """
        due = await asyncio.to_thread(self._stores.waiting.due, AT_ONCE)
        settled = []
        for word in due:
            try:
                record = await asyncio.to_thread(self._record, word)
                await self._producer.publish(self._topic, [record])
                settled.append(word._replace(standing=Standing.JOINED))
            except (PoisonRecord, RecordRefused, DataError) as refused:  # DataError: the row of the query is broken
                log.warning("feedback on query %r is refused: %s", word.query_id, refused)
                settled.append(word._replace(standing=Standing.REFUSED, reason=str(refused)))
        if settled:
            await asyncio.to_thread(self._stores.waiting.settle, settled)
        for word in settled:
            self.count(word.standing)
        return len(due)

    async def tidy(self) -> None:
        """Let what waited too long be told as expired, and forget what nobody can ask for any more.

        Raises:
            TransientError: the state does not answer.
        """
        wait_s = self._settings.wait_s
        expired = await asyncio.to_thread(self._stores.waiting.expire, wait_s)
        self.count(Standing.EXPIRED, expired)
        await asyncio.to_thread(self._stores.captured.forget, self._stores.database.now() - wait_s)

    def count(self, standing: Standing, words: int = 1) -> None:
        self._metrics.feedback_standing.labels(self._metrics.workload, standing.value).inc(words)

    def _record(self, word: Waiting) -> OutgoingRecord:
        stored = self._stores.pseudo_labels.get(word.query_id)
        if stored is None or stored.content_hash != word.content:
            raise PoisonRecord(Reason.DUPLICATE_ID, "id: the intake has answered another query under it")
        return record_of(self._parser, stored.label.query, Word(word.answer, word.against), word.client)

    async def _answered(self, operation: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
        # Whatever the state or the stream says: what waits may wait, and the gateway goes on.
        return await until_answered("feedback", operation, RetrySettings(), self.health, stop, (SemiEvolError,))
