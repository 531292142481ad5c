"""Contradictions between what people, clients and the model say, into the review topic.

Owns which of the model's own answers count as said (those that a round has trained on), and the items' way to the
stream. Not what contradicts what among people and clients (`semievold.store.feedback`). Invariant: what is in the state
comes to the topic, at least once, whatever dies in between.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

import pydantic_core

from semievol.examples.split import asked_key
from semievold.errors import RecordRefused
from semievold.intake.messages import SCHEMA_VERSION
from semievold.store.feedback import Said
from semievold.store.review.contradictions import Claim, ContradictionStore, Item
from semievold.streams.protocol import OutgoingRecord, StreamProducer

AT_ONCE = 100

logger = logging.getLogger(__name__)


class Answer(Protocol):
    """Calls what may not answer until it does."""

    def __call__(self, what: str, operation: Callable[[], Awaitable[Any]], /) -> Awaitable[Any]: ...


class Doubted(NamedTuple):
    """A prediction that a client's word is against."""

    said: Said
    predicted: str
    adapter: str | None
    predicted_at: float


class Reviewing:
    """Writes the review topic."""

    def __init__(
        self, contradictions: ContradictionStore, producer: StreamProducer, topic: str, answer: Answer
    ) -> None:
        self._contradictions = contradictions
        self._producer = producer
        self._topic = topic
        self._answer = answer

    async def doubt(self, doubted: Sequence[Doubted]) -> None:
        """Make items of those predictions that a round has trained on: an ordinary one is merely corrected."""
        if not doubted:
            return
        ids = [each.said.example.id for each in doubted]
        learned = await self._answer("store", lambda: asyncio.to_thread(self._contradictions.learned, ids))
        for each in doubted:
            if (query := each.said.example.query).id in learned:
                who: dict[str, str | None] = {"client": each.said.client}
                claims = [
                    Claim(each.predicted, False, "pseudo_label", {"adapter": each.adapter}, each.predicted_at),
                    Claim(each.said.example.answer, each.said.against, "client", who, time.time()),
                ]
                note = functools.partial(self._contradictions.note, asked_key(query), query, claims)
                await self._answer("store", functools.partial(asyncio.to_thread, note))

    async def publish(self) -> int:
        """Publish what is not in the topic yet; how many items. After a crash one may be there twice."""
        count = 0
        while due := await self._answer("store", lambda: asyncio.to_thread(self._contradictions.due, AT_ONCE)):
            for item in due:
                await self._publish(item)
            mark = functools.partial(self._contradictions.mark_published, due)
            await self._answer("store", functools.partial(asyncio.to_thread, mark))
            count += len(due)
        return count

    async def _publish(self, item: Item) -> None:
        value = pydantic_core.to_json({"schema_version": SCHEMA_VERSION, **item.value})
        record = OutgoingRecord(item.query_id, value)
        try:
            await self._answer("stream", functools.partial(self._producer.publish, self._topic, [record]))
        except RecordRefused as refused:
            logger.error("the contradiction about %r stays in the state alone: %s", item.query_id, refused)
