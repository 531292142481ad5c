"""`/v1/feedback`: a client says what the right answer to an earlier query was, or whether the one it got was right.

Owns the join of an id to its query, who may say how much, and the checks before the stream; what becomes of a client's
word is decided where labels are stored. Invariants: only an answer that was captured gets feedback; a word is joined,
or waits in the state, or is refused with the reason; the query in the record is the one that was answered, not what a
client says it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from aiohttp import web

from semievol.examples.json_values import id_problem
from semievol.examples.split import asked_key
from semievol.types import Query
from semievold.config.fronts import GatewayConfig
from semievold.errors import PoisonRecord
from semievold.gateway.asked import asked_fields, text_turns
from semievold.gateway.buckets import Bucket
from semievold.gateway.capture import Capture
from semievold.gateway.clients import client_of
from semievold.gateway.remembered import Remembered
from semievold.gateway.words import WaitingWords, asked_query, fields_of, labelled, record_of
from semievold.intake.isolation import innocent_query
from semievold.intake.messages import RecordParser
from semievold.store.captured import Captured
from semievold.store.feedback import Word
from semievold.store.pseudo_labels import query_hash
from semievold.store.stores import Stores
from semievold.store.waiting_feedback import Standing, Waiting
from semievold.streams.protocol import StreamProducer
from semievold.web.errors import error, retry_later

FIELDS = frozenset({"id", "answer", "thumb", "question", "messages", "options"})
THUMBS = ("up", "down")


class _About(NamedTuple):
    """What feedback is about; `query` None: the intake has not answered it. The rest as in `Captured`.

    reused: the id that was given was seen with another question too, as the state knows.
    """

    query_id: str
    content: str
    asked: str
    served: str | None
    query: Query | None
    reused: bool = False


class Feedback:
    """The handler of the route."""

    def __init__(
        self,
        settings: GatewayConfig,
        topic: str,
        words: WaitingWords,
        stores: Stores,
        parser: RecordParser,
        producer: StreamProducer,
        secret: str,
        capture: Capture | None = None,
    ) -> None:
        self._capture = capture
        self._settings = settings.feedback
        self._captures = settings.capture.share > 0
        self._topic = topic
        self._words = words
        self._stores = stores
        self._parser = parser
        self._producer = producer
        self._secret = secret.encode()[:64]
        self._budgets: Remembered[str, Bucket] = Remembered()  # client: its requests
        self._on_the_way: Remembered[tuple[str, str], Word] = Remembered()  # (client, what is asked)

    def refused(self, request: web.Request) -> web.Response | None:
        """Why a request is not even read; None: it is."""
        if not self._settings.enabled:
            return error(403, "feedback_off", "gateway.feedback.enabled is false: this service takes no feedback")
        client, now, most = client_of(request, self._secret), time.monotonic(), float(self._settings.max_per_minute)
        bucket = self._budgets.get(client) or Bucket(most, now)
        self._budgets.put(client, bucket)
        if (wait_s := bucket.take(most, now)) == 0:
            return None
        message = f"more than gateway.feedback.max_per_minute = {most:.0f}; ask later"
        return retry_later(error(429, "too_much_feedback", message), wait_s)

    async def standing(self, request: web.Request) -> web.Response:
        """How it stands with what the client has said about the query `?id=`."""
        client, id_ = client_of(request, self._secret), request.query.get("id", "")
        if id_problem(id_) is not None:
            return error(400, "missing_field", "id: say whose feedback by ?id=")
        captured = None if self._capture is None else self._capture.recall(id_)
        captured = captured or await asyncio.to_thread(self._stores.captured.get, id_)
        query_id = id_ if captured is None else captured.query_id
        of_query = await asyncio.to_thread(self._stores.feedback.of, query_id)
        said = [each for each in of_query if each["client"] == client]
        if said:
            word = Word(said[-1]["answer"], said[-1]["against"])
            return _told(200, query_id, word, Standing.JOINED, outcome=said[-1]["outcome"])
        waiting = await asyncio.to_thread(self._stores.waiting.get, query_id, client)
        if waiting is None:
            return error(404, "no_feedback", f"id: nothing is known that this client has said about {id_[:100]!r}")
        reason = {} if waiting.reason is None else {"reason": waiting.reason}
        return _told(200, query_id, Word(waiting.answer, waiting.against), waiting.standing, **reason)

    async def __call__(self, body: Mapping[str, Any], request: web.Request) -> web.Response:
        unknown = sorted(body.keys() - FIELDS)
        if unknown:
            return error(400, "invalid_request", f"{unknown[0]}: unknown field; known: {', '.join(sorted(FIELDS))}")
        if "id" not in body:
            return error(400, "missing_field", "id: missing; send the id of the answer")
        if not isinstance(body["id"], (str, int)) or isinstance(body["id"], bool):
            return error(400, "invalid_field", "id: not a text")
        client = client_of(request, self._secret)
        about = await self._about(body["id"])
        if about is None:
            return error(404, "query_not_found", self._not_found(client, body["id"]))
        if "thumb" in body and "answer" in body:
            return error(400, "invalid_request", "thumb, answer: both are set; send one of them")
        if body.get("thumb", "up") not in THUMBS:
            return error(400, "invalid_request", "thumb: neither up nor down")
        try:
            if not self._is_asked(body, about):
                return error(409, "duplicate_id", "id: it belongs to another question; leave the question out")
            if "thumb" in body and about.served is None:
                why = "the answer that was served is not known: it had several choices, or no answer of the task"
                return error(409, "no_answer", f"thumb: {why}; send the right answer")
            given = body.get("answer") if "thumb" not in body else about.served
            word = Word(self._canonical(about, given), body.get("thumb") == "down")
        except PoisonRecord as poison:
            return error(400, poison.reason.value, poison.detail)
        asked = "question" in body or "messages" in body
        if not asked and (about.reused or self._was_reused(client, str(body["id"]).strip())):
            why = "several questions were sent with it; say which one by question or messages"
            return error(409, "duplicate_id", f"id: {why}, or send the id of the answer")
        for before in await self._before(client, about):
            if before.contradicts(word):
                said = "that it is wrong" if before.against else f"that {before.answer[:100]!r} is right"
                return error(409, "already_answered", f"answer: this client has said {said} before")
        return await self._taken(about, word, client)

    async def _taken(self, about: _About, word: Word, client: str) -> web.Response:
        """Have it joined, or let it wait."""
        if about.query is None:
            waiting = Waiting(about.query_id, client, about.content, about.asked, word.answer, word.against)
            if not await asyncio.to_thread(self._stores.waiting.add, waiting, self._settings.max_waiting):
                full = "too much feedback waits for queries that are not answered yet (gateway.feedback.max_waiting)"
                return retry_later(error(429, "too_much_feedback", f"{full}; ask later"), 60)
        else:
            # Also what was said before: an earlier attempt may not have come to the stream.
            await self._producer.publish(self._topic, [record_of(self._parser, about.query, word, client)])
        self._on_the_way.put((client, about.asked), word)
        standing = Standing.PENDING if about.query is None else Standing.JOINED
        self._words.count(standing)
        return _told(202, about.query_id, word, standing)

    async def _about(self, id_: object) -> _About | None:
        """The query that was captured, or answered, under the id of a query or answer, and what it was answered."""
        if not isinstance(id_, (str, int)) or id_problem(known := str(id_).strip()) is not None:
            return None
        captured = None if self._capture is None else self._capture.recall(known)
        query_id = known if captured is None else captured.query_id
        stored = await asyncio.to_thread(self._stores.pseudo_labels.get, query_id)
        noted = await asyncio.to_thread(self._stores.captured.get, known)
        if captured is None and noted is not None:
            captured, query_id = noted, noted.query_id
            if stored is None and query_id != known:
                stored = await asyncio.to_thread(self._stores.pseudo_labels.get, query_id)
        reused = noted is not None and noted.reused and known == query_id  # an answer's id is no other question's
        if stored is None:
            if captured is None:
                return None
            return _About(query_id, captured.content, captured.asked, _served(known, captured, noted), None, reused)
        query = stored.label.query
        if not self._settings.trusted and query.metadata.get("source") != "gateway":
            return None
        ours = captured is not None and captured.content == stored.content_hash
        served = _served(known, captured, noted) if ours else None
        return _About(query_id, stored.content_hash, asked_key(query), served, query, reused)

    def _not_found(self, client: str, id_: object) -> str:
        left_out = None if self._capture is None else self._capture.left_out(client, str(id_).strip())
        if not self._captures:
            why = "gateway.capture.share is 0: no answer of the gateway is kept to be told what was right"
        elif left_out is not None:
            why = f"its query was not captured: {left_out}"
        else:
            why = (
                "what was captured is answered with the header `x-semievol-query-id`; of a query that was not drawn "
                "for gateway.capture.share, or was left out (x-semievol-not-captured), nothing is kept"
            )
        return f"id: no query {str(id_)[:100]!r} of this gateway is known; {why}"

    def _is_asked(self, body: Mapping[str, Any], about: _About) -> bool:
        """Whether the question, where it is sent along, is that of the id.

        Raises:
            PoisonRecord: it is no question; names the field and the fix.
        """
        if "question" not in body and "messages" not in body:
            return True
        options = {} if about.query is None or about.query.options is None else {"options": list(about.query.options)}
        asked = {**options, **{name: body[name] for name in ("question", "messages", "options") if name in body}}
        forms = [asked]
        if "question" not in body and (turns := text_turns(body["messages"])):
            rest = {name: value for name, value in asked.items() if name != "messages"}
            forms.insert(0, {**rest, **asked_fields(turns, self._parser.task.config.instruction)})
        for number, form in enumerate(forms):
            try:
                query = asked_query(self._parser, {**form, "id": about.query_id})
            except PoisonRecord:
                if number == 0:
                    raise
                return False
            if query_hash(query) == about.content:
                return True
        return False

    def _canonical(self, about: _About, answer: object) -> str:
        """The answer as the task writes it.

        Raises:
            PoisonRecord: it is missing, or none of the task.
        """
        # What is captured has no options: then no question decides which answers there are.
        query = about.query or replace(innocent_query(self._parser.task), id=about.query_id)
        return labelled(self._parser, fields_of(query), answer).answer

    def _was_reused(self, client: str, query_id: str) -> bool:
        return self._capture is not None and self._capture.reused(client, query_id)

    async def _before(self, client: str, about: _About) -> list[Word]:
        """What the client has said to the question."""
        said = await asyncio.to_thread(self._stores.feedback.words_of, client, about.asked)
        if about.query is None:
            waiting = await asyncio.to_thread(self._stores.waiting.said, client, about.asked)
            said += [] if waiting is None else [Word(waiting.answer, waiting.against)]
        lately = self._on_the_way.get((client, about.asked))
        return said if lately is None else [*said, lately]


def _served(id_: str, *known: Captured | None) -> str | None:
    """What was answered under the id, as this process or another one knows it; an earlier answer's is not known."""
    found = [each for each in known if each is not None and id_ in (each.query_id, each.answer_id)]
    return next((each.served for each in found if each.served is not None), None)


def _told(status: int, query_id: str, word: Word, standing: Standing, **more: str) -> web.Response:
    said = {"wrong": word.answer} if word.against else {"answer": word.answer}
    return web.json_response({"id": query_id, **said, "status": standing.value, **more}, status=status)
