"""Clients' chat queries into the queries topic: a sampled share, bounded, and never at the client's cost.

Owns what is captured and what is left out (every reason counted), and the queue to the stream. Invariant: a record that
is published parses as a query; a client neither waits for the stream nor fails with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import pydantic_core

from semievol.errors import SemiEvolError, TransientError
from semievol.examples.split import asked_key
from semievol.types import Message, Query
from semievold.config.fronts import CaptureConfig
from semievold.config.streams import RetrySettings
from semievold.errors import PoisonRecord
from semievold.intake.messages import SCHEMA_VERSION, RecordParser
from semievold.monitoring.metrics import Metrics
from semievold.retry import Health, Stopped, until_answered
from semievold.store.pseudo_labels import query_hash
from semievold.streams.protocol import OutgoingRecord, StreamProducer, StreamRecord

ID_HEADER = "x-semievol-id"
OPT_OUT_HEADER = "x-semievol-no-capture"
BATCH = 100
REMEMBERED = 10_000
"""Ids that a process keeps in mind; the state knows the older ones that were answered."""
LOOK_UP_S = 1.0
"""So long a client that gave an id waits for the state, at most."""
UNCHECKED = ""
"""In place of a query's hash: nobody knows what the id stands for."""

log = logging.getLogger(__name__)

_ID = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,510}[\x21-\x7e])?")


class Dropped(StrEnum):
    """Why a query of the sampled share was not captured; a closed set, for a metric."""

    OPTED_OUT = "opted_out"
    TOO_LONG = "too_long"
    NOT_TEXT = "not_text"
    INVALID = "invalid"
    ID_TAKEN = "id_taken"  # another query has the client's id, or the state did not say in time whether one has
    QUEUE_FULL = "queue_full"
    NOT_PUBLISHED = "not_published"


@dataclass(frozen=True, slots=True)
class Drawn:
    """A request of the sampled share; `turns` None: they are not text, and it is only counted."""

    turns: list[dict[str, str]] | None
    client: str


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
        *,
        known: Callable[[Sequence[str]], Mapping[str, str]] | None = None,
        secret: str | None = None,
    ) -> None:
        """Take nothing yet.

        `known` tells {id: hash} of the queries that the state has under these ids; None: there is no state to ask.
        `secret` is the key by which the share is drawn; None: one of this process alone.
        """
        self._known = known
        self.secret = (secret or secrets.token_hex(32)).encode()[:64]
        self._recent: OrderedDict[str, str] = OrderedDict()  # id: hash of the query that was captured under it
        self._reused: OrderedDict[tuple[str, str], None] = OrderedDict()  # (client, id of another query)
        self._settings = settings
        self._topic = topic
        self._instruction = instruction
        self._parser = parser
        self._producer = producer
        self._metrics = metrics
        self._queue: asyncio.Queue[OutgoingRecord] = asyncio.Queue(settings.queue_size)
        self.health = Health()

    def drawn(self, body: Mapping[str, Any], client: str) -> Drawn | None:
        """A chat request, where it belongs to the sampled share; `client` is who asks (`semievold.gateway.clients`)."""
        turns = _text_turns(body.get("messages"))
        return Drawn(turns, client) if self._in_share(client, turns) else None

    async def earlier(self, headers: Mapping[str, str]) -> str | None:
        """The hash of the query that the state has under the id that the client gave; UNCHECKED: it did not say."""
        given = headers.get(ID_HEADER)
        if not given or self._known is None or OPT_OUT_HEADER in headers or _ID.fullmatch(given) is None:
            return None
        try:
            async with asyncio.timeout(LOOK_UP_S):
                return (await asyncio.to_thread(self._known, [given])).get(given)
        except (SemiEvolError, TimeoutError) as failure:
            log.warning("a query is not captured, the state does not say whether its id is taken: %s", failure)
            return UNCHECKED

    def offer(
        self,
        drawn: Drawn,
        headers: Mapping[str, str],
        answer_id: str | None,
        adapter: str | None,
        *,
        earlier: str | None = None,
        dropped: Callable[[Dropped], object] = lambda _: None,
    ) -> str | None:
        """Queue the query of a chat request that `adapter` answers; its id, or None when it was not captured.

        The id is the client's, when it gave one, else the answer's. `earlier` is what the method has found, and
        `dropped` is told why a query of the sampled share was not captured.
        """
        query_id = headers.get(ID_HEADER) or answer_id
        if query_id is None:
            return None
        reason = self._queued(query_id, drawn.turns, headers, adapter, earlier)
        if reason is None:
            return query_id
        if reason is Dropped.ID_TAKEN:
            _remember(self._reused, (drawn.client, query_id), None)
        self._drop(reason)
        dropped(reason)
        return None

    def reused(self, client: str, query_id: str) -> bool:
        """Whether the client has sent a query to this process under an id that was another query's."""
        return (client, query_id) in self._reused

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
        self,
        query_id: str,
        turns: list[dict[str, str]] | None,
        headers: Mapping[str, str],
        adapter: str | None,
        earlier: str | None,
    ) -> Dropped | None:
        if OPT_OUT_HEADER in headers:
            return Dropped.OPTED_OUT
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
            query = self._parser.query(StreamRecord(self._topic, 0, 0, query_id, value, {}, 0.0))
        except PoisonRecord:
            return Dropped.INVALID
        content = query_hash(query)
        if any(each not in (None, content) for each in (earlier, self._recent.get(query.id))):
            return Dropped.ID_TAKEN
        try:
            self._queue.put_nowait(OutgoingRecord(query_id, value))
        except asyncio.QueueFull:
            return Dropped.QUEUE_FULL
        _remember(self._recent, query.id, content)
        return None

    def _in_share(self, client: str, turns: list[dict[str, str]] | None) -> bool:
        """Whether the query belongs to the sampled share: drawn by a keyed hash of who asks what, so that a repeated
        request is not drawn again, and a client cannot choose.
        """
        if turns is None:  # never captured: that counts how many are left out
            return random.random() < self._settings.share
        last = turns[-1]["content"] if turns else ""
        messages = tuple(Message(cast(Any, turn["role"]), turn["content"]) for turn in turns)
        asked = asked_key(Query("", last, messages=messages))
        digest = hashlib.blake2b(f"{client}\x1f{asked}".encode(), key=self.secret, digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._settings.share * 2**64

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


def _remember(kept: OrderedDict[Any, Any], key: object, value: object) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > REMEMBERED:
        kept.popitem(last=False)


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
