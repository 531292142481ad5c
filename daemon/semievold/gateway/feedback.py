"""`POST /v1/feedback`: a client says what the right answer to an earlier query was, and a label record says it on.

Owns the join of an id to its query, who may say how much, and the checks before the stream; what becomes of a client's
word is decided where labels are stored. Invariants: only an answer that exists gets feedback; the source of the record
is set here, and the query in it is the one that was answered, not what a client says it was.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import pydantic_core
from aiohttp import web

from semievol.examples.json_values import id_problem
from semievol.examples.records import query_to_json
from semievol.examples.split import asked_key
from semievol.types import Example, Query
from semievold.config.fronts import GatewayConfig
from semievold.errors import PoisonRecord
from semievold.gateway.clients import client_of
from semievold.intake.messages import CLIENT_HEADER, SCHEMA_VERSION, RecordParser, label_record
from semievold.store.examples import FEEDBACK
from semievold.store.feedback import FeedbackStore
from semievold.store.pseudo_labels import PseudoLabelStore, query_hash
from semievold.streams.protocol import StreamProducer, StreamRecord
from semievold.web.errors import error

FIELDS = frozenset({"id", "answer", "question", "messages", "options"})
REMEMBERED = 10_000
"""Clients and answers that a process keeps in mind; the state knows the older ones."""
MINUTE_S = 60.0


class Feedback:
    """The handler of the route."""

    def __init__(
        self,
        settings: GatewayConfig,
        topic: str,
        pseudo_labels: PseudoLabelStore,
        said: FeedbackStore,
        parser: RecordParser,
        producer: StreamProducer,
        secret: str,
        reused: Callable[[str, str], bool] = lambda _client, _id: False,
    ) -> None:
        """`reused`: whether a client has sent a query under an id that was another's, so that it was not captured."""
        self._reused = reused
        self._settings = settings.feedback
        self._captures = settings.capture.share > 0
        self._topic = topic
        self._pseudo_labels = pseudo_labels
        self._said = said
        self._parser = parser
        self._producer = producer
        self._secret = secret.encode()[:64]
        self._budgets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client: requests left, as of when
        self._on_the_way: OrderedDict[tuple[str, str], str] = OrderedDict()  # (client, what is asked): answer

    def refused(self, request: web.Request) -> web.Response | None:
        """Why a request is not even read; None: it is."""
        if not self._settings.enabled:
            return error(403, "feedback_off", "gateway.feedback.enabled is false: this service takes no feedback")
        client, now, most = client_of(request, self._secret), time.monotonic(), float(self._settings.max_per_minute)
        left, since = self._budgets.pop(client, (most, now))
        left = min(most, left + (now - since) * most / MINUTE_S)
        _remember(self._budgets, client, (left - 1 if left >= 1 else left, now))
        if left >= 1:
            return None
        busy = error(429, "too_much_feedback", f"more than gateway.feedback.max_per_minute = {most:.0f}; ask later")
        busy.headers["Retry-After"] = str(max(1, round((1 - left) * MINUTE_S / most)))
        return busy

    async def __call__(self, body: Mapping[str, Any], request: web.Request) -> web.Response:
        unknown = sorted(body.keys() - FIELDS)
        if unknown:
            return error(400, "invalid_request", f"{unknown[0]}: unknown field; known: {', '.join(sorted(FIELDS))}")
        if "id" not in body:
            return error(400, "missing_field", "id: missing; send the id of the answer")
        known = await self._known(body["id"])
        if known is None:
            return error(404, "query_not_found", self._not_found(body["id"]))
        try:
            if "question" in body or "messages" in body:
                options = {} if known.options is None else {"options": list(known.options)}
                if query_hash(self._label({**options, **body}).query) != query_hash(known):
                    return error(409, "duplicate_id", "id: it belongs to another question; leave the question out")
            answer = {"answer": body["answer"]} if "answer" in body else {}
            label = self._label({**_asked(known), **answer})
        except PoisonRecord as poison:
            return error(400, poison.reason.value, poison.detail)
        client, asked = client_of(request, self._secret), asked_key(known)
        if not ("question" in body or "messages" in body) and self._reused(client, label.id):
            return error(409, "duplicate_id", "id: this client has sent several questions with it; say which one")
        before = self._on_the_way.get((client, asked))
        if before is None:
            before = await asyncio.to_thread(self._said.answer_of, client, asked)
        if before is not None and before != label.answer:
            return error(409, "already_answered", "answer: this client has given this question another answer before")
        # Also what was said before: an earlier attempt may not have come to the stream.
        _remember(self._on_the_way, (client, asked), label.answer)
        await self._producer.publish(self._topic, [label_record(label, {CLIENT_HEADER: client})])
        return web.json_response({"id": label.id, "answer": label.answer, "joined": True}, status=202)

    async def _known(self, query_id: object) -> Query | None:
        """The query that was answered under the id, if a client may have seen the answer."""
        if not isinstance(query_id, (str, int)) or id_problem(known := str(query_id).strip()) is not None:
            return None
        stored = await asyncio.to_thread(self._pseudo_labels.get, known)
        if stored is None:
            return None
        query = stored.label.query
        return query if self._settings.trusted or query.metadata.get("source") == "gateway" else None

    def _not_found(self, query_id: object) -> str:
        why = (
            "the intake has not answered it (yet): ask later, and send the header `x-semievol-query-id` of the answer"
            if self._captures
            else "gateway.capture.share is 0: no answer of the gateway is kept to be told what was right"
        )
        return f"id: no query {str(query_id)[:100]!r} of this gateway is known; {why}"

    def _label(self, asked: Mapping[str, Any]) -> Example:
        """The example that the feedback makes.

        Raises:
            PoisonRecord: naming the field and the fix.
        """
        value = pydantic_core.to_json({"schema_version": SCHEMA_VERSION, **asked, "source": FEEDBACK})
        label = self._parser.label(StreamRecord(self._topic, 0, 0, None, value, {}, 0.0))
        assert isinstance(label, Example)  # only a null value is a retraction
        return label


def _asked(query: Query) -> dict[str, Any]:
    fields = query_to_json(query)
    if query.messages is not None:
        del fields["question"]  # the last turn says it
    return fields


def _remember(kept: OrderedDict[Any, Any], key: object, value: object) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > REMEMBERED:
        kept.popitem(last=False)
