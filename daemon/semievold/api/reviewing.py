"""What requests say about the review queue: which items are wanted, and what a person answers.

Owns the fields and their errors; effects are semievold.review.answering's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semievol.errors import DataError
from semievol.examples.json_values import fault_of
from semievold.api.limits import read_limit
from semievold.review.answering import KINDS, MOST_SHOWN, Reviewers, Which

FIELDS = ("answer", "skip", "undo")


def read_which(query: Mapping[str, str]) -> tuple[Which | None, int]:
    """The kind of items (None: all), and how many at most, by `?purpose=` and `?limit=`.

    Raises:
        DataError: naming the parameter and the fix.
    """
    purpose = query.get("purpose")
    kind = next((each for each in KINDS if each == purpose), None)
    if purpose is not None and kind is None:
        raise DataError(f"purpose: {purpose[:40]!r} is none of {', '.join(KINDS)}")
    return kind, read_limit(query, 50, MOST_SHOWN)


async def answered(reviewers: Reviewers, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Do what `{"answer": ...}`, `{"skip": true}` or `{"undo": true}` asks for.

    Raises:
        DataError: naming the field and the fix. UnknownItem, StateConflict, TransientError: as there.
    """
    if (fault := fault_of(body)) is not None:
        raise DataError(f"review: field {fault.field or 'body'!r}: {fault.problem}")
    if unknown := sorted(body.keys() - set(FIELDS)):
        raise DataError(f"review: field {unknown[0][:60]!r}: unknown; known fields: {', '.join(FIELDS)}")
    if len(body) != 1:
        raise DataError(f"review: send one of {', '.join(FIELDS)}")
    for name, does in (("skip", reviewers.skip), ("undo", reviewers.undo)):
        if name in body:
            if body[name] is not True:
                raise DataError(f"review: field {name!r}: expected true")
            return await does(key)
    return await reviewers.give(key, body["answer"], "api")
