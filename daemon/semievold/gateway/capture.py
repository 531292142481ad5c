"""Clients' chat queries into the queries topic: a sampled share, bounded, and never at the client's cost.

Owns what is captured and what is left out (every reason counted), and the queue to the stream. Invariant: a record that
is published parses as a query; a client neither waits for the stream nor fails with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pydantic_core

from semievol.errors import TransientError
from semievold.config.fronts import CaptureConfig
from semievold.config.streams import RetrySettings
from semievold.errors import PoisonRecord
from semievold.intake.messages import SCHEMA_VERSION, RecordParser
from semievold.monitoring.metrics import Metrics
from semievold.retry import Health, Stopped, until_answered
from semievold.streams.protocol import OutgoingRecord, StreamProducer, StreamRecord

ID_HEADER = "x-semievol-id"
OPT_OUT_HEADER = "x-semievol-no-capture"
BATCH = 100

_ID = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,510}[\x21-\x7e])?")


class Dropped(StrEnum):
    """Why a query of the sampled share was not captured; a closed set, for a metric."""

    OPTED_OUT = "opted_out"
    TOO_LONG = "too_long"
    NOT_TEXT = "not_text"
    INVALID = "invalid"
    QUEUE_FULL = "queue_full"
    NOT_PUBLISHED = "not_published"


class Capture:
    """Takes queries from the gateway, and publishes them beside it."""

    def __init__(
        self,
        settings: CaptureConfig,
        topic: str,
        instruction: str | None,
        parser: RecordParser,
        producer: StreamProducer,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._instruction = instruction
        self._parser = parser
        self._producer = producer
        self._metrics = metrics
        self._queue: asyncio.Queue[OutgoingRecord] = asyncio.Queue(settings.queue_size)
        self.health = Health()

    def offer(
        self, body: Mapping[str, Any], headers: Mapping[str, str], answer_id: str | None, adapter: str | None
    ) -> str | None:
        """Queue the query of a chat request that `adapter` answers; its id, or None when it was not captured.

        The id is the client's, when it gave one, else the answer's.
        """
        query_id = headers.get(ID_HEADER) or answer_id
        if query_id is None or not in_share(query_id, self._settings.share):
            return None
        reason = self._queued(query_id, body, headers, adapter)
        if reason is None:
            return query_id
        self._drop(reason)
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Publish what is queued until `stop` is set, then what is left, without waiting for a stream that is away."""
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set() or not self._queue.empty():
                batch = await self._next_batch(stopped)
                if batch:
                    await self._publish(batch, stop)
        finally:
            stopped.cancel()

    def _queued(
        self, query_id: str, body: Mapping[str, Any], headers: Mapping[str, str], adapter: str | None
    ) -> Dropped | None:
        if OPT_OUT_HEADER in headers:
            return Dropped.OPTED_OUT
        turns = _text_turns(body.get("messages"))
        if turns is None:
            return Dropped.NOT_TEXT
        if sum(len(turn["content"]) for turn in turns) > self._settings.max_chars:
            return Dropped.TOO_LONG
        if _ID.fullmatch(query_id) is None:
            return Dropped.INVALID
        value = pydantic_core.to_json(
            {
                "schema_version": SCHEMA_VERSION,
                "id": query_id,
                **self._asked(turns),
                "metadata": {"source": "gateway", "adapter": adapter},
                "timestamp": time.time(),
            }
        )
        try:
            self._parser.query(StreamRecord(self._topic, 0, 0, query_id, value, {}, 0.0))
        except PoisonRecord:
            return Dropped.INVALID
        try:
            self._queue.put_nowait(OutgoingRecord(query_id, value))
        except asyncio.QueueFull:
            return Dropped.QUEUE_FULL
        return None

    def _asked(self, turns: list[dict[str, str]]) -> dict[str, Any]:
        """A question, when the intake would ask it in the same words by itself; else the whole conversation."""
        own = turns[1:] if turns and turns[0] == {"role": "system", "content": self._instruction} else turns
        if len(own) == 1 and own[0]["role"] == "user":
            return {"question": own[0]["content"]}
        return {"messages": turns}

    async def _next_batch(self, stopped: asyncio.Task[bool]) -> list[OutgoingRecord]:
        if self._queue.empty():
            waiting = asyncio.create_task(self._queue.get())
            await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                return []
            batch = [waiting.result()]
        else:
            batch = []
        while len(batch) < BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def _publish(self, batch: list[OutgoingRecord], stop: asyncio.Event) -> None:
        try:
            await until_answered(
                "capture",
                lambda: self._producer.publish(self._topic, batch),
                RetrySettings(),
                self.health,
                stop,
                (TransientError,),
            )
        except Stopped:
            self._drop(Dropped.NOT_PUBLISHED, len(batch))
        else:
            self._metrics.captured.labels(self._metrics.workload).inc(len(batch))

    def _drop(self, reason: Dropped, count: int = 1) -> None:
        self._metrics.capture_dropped.labels(self._metrics.workload, reason.value).inc(count)


def in_share(query_id: str, share: float) -> bool:
    """Whether the query belongs to the sampled share: decided by its id alone, so that a repeated request is not drawn
    again.
    """
    digest = hashlib.blake2b(query_id.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _text_turns(messages: object) -> list[dict[str, str]] | None:
    """The turns as role and text; None when one of them is something else (images, tool calls)."""
    if not isinstance(messages, list):
        return None
    turns = []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
            return None
        text = _text(message.get("content"))
        if text is None or message.get("tool_calls"):
            return None
        turns.append({"role": message["role"], "content": text})
    return turns


def _text(content: object) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "\n".join(texts) if len(texts) == len(parts) else None
