"""What an item is to others: its record in the review topic, and its view for people.

Owns the fields. Invariant: nothing tells which version, or how many of the views, gave a candidate, so that whoever
confirms what is shown tosses a coin; and where it is not known that two versions differ, a gate shows no candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pydantic_core

from semievol.errors import DataError
from semievol.examples.records import query_to_json, said_once, stored_query
from semievol.tasks.task import Task
from semievol.types import Query
from semievold.intake.messages import SCHEMA_VERSION
from semievold.store.review.contradictions import Item as Contradiction
from semievold.store.review.items import ReviewItem
from semievold.streams.protocol import OutgoingRecord


def item_record(item: ReviewItem) -> OutgoingRecord:
    """A record for the review topic, under the query's id."""
    value = {"schema_version": SCHEMA_VERSION, **_fields(item)}
    return OutgoingRecord(item.draft.query.id, pydantic_core.to_json(value))


def shown(item: ReviewItem, task: Task) -> dict[str, Any]:
    """The item for people: the record's fields, and under `answers` all that there are (null: the set is open)."""
    return {**_fields(item), "answers": answers_to(task, item.draft.query), "created_at": item.created_at}


def shown_contradiction(item: Contradiction, task: Task) -> dict[str, Any]:
    """As `shown`; `candidates` say who says that they are right, and who that they are wrong."""
    query = query_of(item)
    return {"review": item.key, **item.value, "answers": None if query is None else answers_to(task, query)}


def query_of(item: Contradiction) -> Query | None:
    """What is asked; None: the row cannot be read."""
    fields: dict[str, Any] = {key: item.value[key] for key in ("question", "messages", "options") if key in item.value}
    try:
        return stored_query(fields, item.query_id)
    except (DataError, TypeError):
        return None


def answers_to(task: Task, query: Query) -> Sequence[str] | None:
    found = task.answers(query)
    return None if found is None else list(found)


def _fields(item: ReviewItem) -> dict[str, Any]:
    draft = item.draft
    asked = said_once(draft.query, query_to_json(draft.query))
    asked.pop("metadata", None)
    return {
        "review": item.key,
        **asked,
        "purpose": draft.purpose,
        "candidates": [{"answer": answer} for answer in draft.candidates],
        "times": draft.times,
        **({} if draft.round is None else {"round": draft.round}),
        **({"why": dict(draft.why)} if draft.why else {}),
    }
