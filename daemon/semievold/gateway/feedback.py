"""`POST /v1/feedback`: a client says what the right answer to an earlier query was, and a label record says it on.

Owns the join of an id to its query and the checks before the stream; the labels role does the rest. Publishing the same
feedback again changes nothing: a label is kept by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pydantic_core
from aiohttp import web

from semievol.examples.json_values import id_problem
from semievol.examples.records import query_to_json
from semievol.types import Example, Query
from semievold.errors import PoisonRecord
from semievold.intake.messages import SCHEMA_VERSION, RecordParser, label_record
from semievold.store.pseudo_labels import PseudoLabelStore, query_hash
from semievold.streams.protocol import StreamProducer, StreamRecord
from semievold.web.errors import error

FIELDS = frozenset({"id", "answer", "answers", "source", "question", "messages", "options", "category", "metadata"})
SOURCE = "feedback"


class Feedback:
    """The handler of the route."""

    def __init__(
        self, topic: str, pseudo_labels: PseudoLabelStore, parser: RecordParser, producer: StreamProducer
    ) -> None:
        self._topic = topic
        self._pseudo_labels = pseudo_labels
        self._parser = parser
        self._producer = producer

    async def __call__(self, body: Mapping[str, Any]) -> web.Response:
        unknown = sorted(body.keys() - FIELDS)
        if unknown:
            return error(400, "invalid_request", f"{unknown[0]}: unknown field; known: {', '.join(sorted(FIELDS))}")
        known = await self._known(body.get("id"))
        given = "question" in body or "messages" in body
        if known is None and not given:
            return error(
                404,
                "query_not_found",
                f"id: no query {str(body.get('id'))[:100]!r} was answered by the intake (yet); ask later, or send its "
                "question or messages along",
            )
        asked = body if known is None or given else {**_asked(known), **body}
        try:
            label = self._label(asked)
        except PoisonRecord as poison:
            return error(400, poison.reason.value, poison.detail)
        if known is not None and query_hash(label.query) != query_hash(known):
            return error(409, "duplicate_id", "id: it belongs to another question; leave the question out")
        await self._producer.publish(self._topic, [label_record(label)])
        answer = {"id": label.id, "answer": label.answer, "joined": known is not None}
        return web.json_response(answer, status=202)

    async def _known(self, query_id: object) -> Query | None:
        if not isinstance(query_id, (str, int)) or id_problem(known := str(query_id).strip()) is not None:
            return None
        stored = await asyncio.to_thread(self._pseudo_labels.get, known)
        return None if stored is None else stored.label.query

    def _label(self, asked: Mapping[str, Any]) -> Example:
        """The example that the feedback makes.

        Raises:
            PoisonRecord: naming the field and the fix.
        """
        value = pydantic_core.to_json({"schema_version": SCHEMA_VERSION, "source": SOURCE, **asked})
        label = self._parser.label(StreamRecord(self._topic, 0, 0, None, value, {}, 0.0))
        assert isinstance(label, Example)  # only a null value is a retraction
        return label


def _asked(query: Query) -> dict[str, Any]:
    fields = query_to_json(query)
    if query.messages is not None:
        del fields["question"]  # the last turn says it
    return fields
