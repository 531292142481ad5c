"""Clients' chat queries into the queries topic: a sampled share, bounded, and never at the client's cost.

Owns what is captured and what is left out (every reason counted), whose an id is, and the queue to the stream.
Invariants: a record that is published parses as a query; an id is one query's, of all gateways over one state; a client
neither waits for the stream nor fails with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import pydantic_core

from semievol.errors import SemiEvolError, TransientError
from semievol.examples.json_values import fault_of
from semievol.examples.split import asked_key
from semievol.types import Message, Query
from semievold.config.fronts import CaptureConfig
from semievold.config.streams import RetrySettings
from semievold.errors import Dropped, PoisonRecord
from semievold.gateway.asked import Turn, asked_fields, text_turns
from semievold.gateway.remembered import Remembered
from semievold.intake.messages import CLIENT_HEADER, NO_HEADERS, SCHEMA_VERSION, RecordParser, trace_of
from semievold.monitoring.metrics import Metrics
from semievold.retry import Health, Stopped, until_answered
from semievold.store.captured import Captured
from semievold.store.pseudo_labels import query_hash
from semievold.streams.protocol import OutgoingRecord, StreamProducer, StreamRecord

ID_HEADER = "x-semievol-id"
OPT_OUT_HEADER = "x-semievol-no-capture"
BATCH = 100
CLAIM_S = 1.0
"""So long a client that gave an id, or the stream, waits for the state, at most."""
NOTE_PAUSE_S = 5.0
"""A state that did not answer is left alone for so long, so that the stream does not wait for it."""
AT_ONCE = 200
"""So much the state is told in one transaction."""
MARK_S = 1.0
UNCHECKED = ""
"""In place of a query's hash: nobody knows what the id stands for."""
NOT_DRAWN = "it was not drawn for the share that is captured (gateway.capture.share)"

V = TypeVar("V")

log = logging.getLogger(__name__)

_ID = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,510}[\x21-\x7e])?")


class CaptureState(Protocol):
    """What the gateways over one state know together (`semievold.store.captured`)."""

    def claim(self, query: Captured) -> str: ...

    def note(self, queries: Sequence[Captured]) -> None: ...

    def release(self, claims: Sequence[tuple[str, str]]) -> None: ...

    def mark(self, seen: Sequence[tuple[str, str]]) -> None: ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """A request of the sampled share; `turns` None: they are not text, and it is only counted."""

    turns: list[Turn] | None
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
        state: CaptureState | None = None,
        secret: str | None = None,
    ) -> None:
        """Take nothing yet.

        `state` tells whose an id is; None: there is none to ask. `secret` is the key by which the share is drawn; None:
        one of this process alone.
        """
        self._state = state
        self.secret = (secret or secrets.token_hex(32)).encode()[:64]
        self._recent: Remembered[str, Captured] = Remembered()  # by id
        self._named: Remembered[str, str] = Remembered()  # id of an answer: the id that the client gave the query
        self._notes: Remembered[str, Captured] = Remembered()  # what the state is to be told
        self._left_out: Remembered[tuple[str, str], str] = Remembered()  # (client, id): why
        self._reused: Remembered[tuple[str, str], None] = Remembered()  # (client, id of another query)
        # Of these, what the state is to be told.
        self._marks: Remembered[tuple[str, str], tuple[str, str]] = Remembered()
        self._releases: Remembered[str, tuple[str, str]] = Remembered()  # (id, hash): claimed, and not captured
        self._settings = settings
        self._topic = topic
        self._instruction = instruction
        self._parser = parser
        self._producer = producer
        self._metrics = metrics
        self._queue: asyncio.Queue[OutgoingRecord | None] = asyncio.Queue(settings.queue_size)
        self._note_from = 0.0
        self._marking = False
        self.health = Health()

    def drawn(self, body: Mapping[str, Any], client: str) -> Drawn | None:
        """A chat request, where it belongs to the sampled share; `client` is who asks (`semievold.gateway.clients`)."""
        turns = text_turns(body.get("messages"))
        return Drawn(turns, client) if self._in_share(client, turns) else None

    async def claimed(self, drawn: Drawn, headers: Mapping[str, str]) -> str | None:
        """The hash of the query that has the id which the client gave, from now on this one unless another came first;
        UNCHECKED: the state did not say. None: there is nothing to ask.
        """
        given = headers.get(ID_HEADER)
        if not given or self._state is None:
            return None
        asked = self._asked(given, drawn.turns, headers, None)
        if isinstance(asked, Dropped):
            return None
        query, _ = asked
        wanted = Captured(given, query_hash(query), asked_key(query), drawn.client)
        try:
            async with asyncio.timeout(CLAIM_S):
                return await asyncio.to_thread(self._state.claim, wanted)
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
        claimed: str | None = None,
        dropped: Callable[[Dropped], object] = lambda _: None,
        trace: Mapping[str, str] = NO_HEADERS,
    ) -> str | None:
        """Queue the query of a chat request that `adapter` answers; its id, or None when it was not captured.

        The id is the client's, when it gave one, else the answer's. `claimed` is what the method has found, and
        `dropped` is told why a query of the sampled share was not captured. `trace`: headers of the record, which name
        the trace that the query's label is to join.
        """
        query_id = headers.get(ID_HEADER) or answer_id
        if query_id is None:
            return None
        reason = self._queued(query_id, drawn, headers, answer_id, adapter, claimed, trace)
        if reason is None:
            return query_id
        if reason is not Dropped.ID_TAKEN:
            self._leave_out(drawn.client, reason.value, query_id)
        if reason is not Dropped.QUEUE_FULL or query_id not in self._recent:  # else it is the one that is known
            self._seen_with_another(drawn.client, headers)
        self._leave_out(drawn.client, reason.value, answer_id)
        self._drop(reason)
        dropped(reason)
        return None

    def not_drawn(self, client: str, headers: Mapping[str, str], answer_id: str | None) -> None:
        """Remember of an answer that its query is not captured, for whoever has feedback on it."""
        self._leave_out(client, NOT_DRAWN, headers.get(ID_HEADER))
        self._leave_out(client, NOT_DRAWN, answer_id)
        self._seen_with_another(client, headers)

    def ended(self, drawn: Drawn, headers: Mapping[str, str], claimed: str | None) -> None:
        """A call whose id was `claimed` is over: an id whose query was not captured is given back."""
        given = headers.get(ID_HEADER)
        if not given or not claimed:
            return
        known = self._recent.get(given)
        if known is not None and known.content == claimed:
            return
        asked = self._asked(given, drawn.turns, headers, None)
        if not isinstance(asked, Dropped) and query_hash(asked[0]) == claimed:  # else it is another's
            self._releases.put(given, (given, claimed))
            self._wake()

    def answered(self, query_id: str, text: str | None) -> None:
        """A captured query's answer is whole: its text, where it is one and has come to its end."""
        known = self._recent.get(query_id)
        if known is None or text is None or not text.strip() or len(text) > self._settings.max_chars:
            return
        # Captured queries have no options: nothing else of a query decides how an answer is read.
        served = self._parser.task.parse(text, Query(query_id, ""))
        if served is None or fault_of({"answer": served}) is not None:
            return
        self._keep(known._replace(served=served))
        self._wake()

    def recall(self, id_: str) -> Captured | None:
        """What this process has captured under an id, the query's or the answer's, lately."""
        return self._recent.get(self._named.get(id_) or id_)

    def left_out(self, client: str, id_: str) -> str | None:
        """Why the client's query under an id, its own or the answer's, was not captured by this process."""
        return self._left_out.get((client, id_))

    def reused(self, client: str, query_id: str) -> bool:
        """Whether the client has sent this process another query under the id than the one that was captured."""
        return (client, query_id) in self._reused

    async def run(self, stop: asyncio.Event) -> None:
        """Publish what is queued until `stop` is set, then what is left, without waiting for a stream that is away."""
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set() or not self._queue.empty():
                batch = await self._next_batch(stopped)
                await self._note()
                if batch:
                    await self._publish(batch, stop)
            self._note_from = 0.0
            await self._note()
        finally:
            stopped.cancel()

    def _queued(
        self,
        query_id: str,
        drawn: Drawn,
        headers: Mapping[str, str],
        answer_id: str | None,
        adapter: str | None,
        claimed: str | None,
        trace: Mapping[str, str],
    ) -> Dropped | None:
        asked = self._asked(query_id, drawn.turns, headers, adapter)
        if isinstance(asked, Dropped):
            return asked
        query, value = asked
        known = self._recent.get(query.id)
        content = query_hash(query)
        if any(each not in (None, content) for each in (claimed, known and known.content)):
            return Dropped.ID_TAKEN
        try:
            self._queue.put_nowait(OutgoingRecord(query_id, value, {CLIENT_HEADER: drawn.client, **trace_of(trace)}))
        except asyncio.QueueFull:
            return Dropped.QUEUE_FULL
        other = answer_id if answer_id != query_id else None
        served = known.served if known is not None and known.answer_id == other else None  # another answer says its own
        self._keep(Captured(query_id, content, asked_key(query), drawn.client, other, served))
        if other is not None:
            self._named.put(other, query_id)
        return None

    def _asked(
        self, query_id: str, turns: list[Turn] | None, headers: Mapping[str, str], adapter: str | None
    ) -> tuple[Query, bytes] | Dropped:
        """The query as the intake will read it, and its record."""
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
                **asked_fields(turns, self._instruction),
                "metadata": {"source": "gateway", "adapter": adapter},
                "timestamp": time.time(),
            }
        )
        try:
            return self._parser.query(StreamRecord(self._topic, 0, 0, query_id, value, {}, 0.0)), value
        except PoisonRecord:
            return Dropped.INVALID

    def _keep(self, query: Captured) -> None:
        self._recent.put(query.query_id, query)
        if self._state is not None:
            self._notes.put(query.query_id, query)
            if self.reused(query.client, query.query_id):
                self._mark(query.client, query.query_id)

    def _seen_with_another(self, client: str, headers: Mapping[str, str]) -> None:
        """An id that the client gave stands for a query that is not captured: alone it does not say which is meant,
        should another be captured under it.
        """
        if given := headers.get(ID_HEADER):
            self._reused.put((client, given), None)
            if self._state is not None and _ID.fullmatch(given):
                self._mark(client, given)

    def _mark(self, client: str, query_id: str) -> None:
        self._marks.put((client, query_id), (client, query_id))
        if not self._marking:  # few of them are of an id that was captured: they do not hurry
            self._marking = True
            asyncio.get_running_loop().call_later(MARK_S, self._wake)

    def _wake(self) -> None:
        """Only the state has something to be told."""
        if self._queue.empty():
            self._queue.put_nowait(None)

    def _leave_out(self, client: str, reason: str, id_: str | None) -> None:
        if id_ is not None:
            self._left_out.put((client, id_), reason)

    async def _note(self) -> None:
        """Tell the state; while it is away, what there is to tell waits, and the stream does not wait for that."""
        now = asyncio.get_running_loop().time()
        self._marking = False
        if self._state is None or now < self._note_from:
            return
        state = self._state
        # Marks come after the rows in which they are set.
        told = (
            await self._told(self._notes, state.note)
            and await self._told(self._marks, state.mark)
            and await self._told(self._releases, state.release)
        )
        if not told:
            self._note_from = now + NOTE_PAUSE_S

    async def _told(self, kept: Remembered[Any, V], tell: Callable[[Sequence[V]], None]) -> bool:
        """Whether all of it is told to the state, part by part: what was told is not told again."""
        while some := kept.taken(AT_ONCE):
            try:
                async with asyncio.timeout(CLAIM_S):
                    await asyncio.to_thread(tell, list(some.values()))
            except (SemiEvolError, TimeoutError) as failure:
                log.warning("the state is not told what was captured, feedback on it may be refused: %s", failure)
                if isinstance(failure, (TransientError, TimeoutError)):
                    for key, value in some.items():
                        if key not in kept:
                            kept.put(key, value)
                return False
        return True

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

    async def _next_batch(self, stopped: asyncio.Task[bool]) -> list[OutgoingRecord]:
        if self._queue.empty():
            waiting = asyncio.create_task(self._queue.get())
            await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                return []
            taken = [waiting.result()]
        else:
            taken = []
        while len(taken) < BATCH and not self._queue.empty():
            taken.append(self._queue.get_nowait())
        return [record for record in taken if record is not None]  # None: only the state has something to be told

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
