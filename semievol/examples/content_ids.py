"""Ids of records that came without one: made of what is asked.

Owns that rule alone. Pure. Invariant: equal content has equal ids, whatever form and file it came in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from semievol.errors import DataError
from semievol.examples.records import Row, kind_of

CONTENT_ID = "c-"
"""What an id by content begins with."""


def content_id(record: Row) -> str:
    """An id that records with the same question, or conversation, and the same options have in every file.

    Raises:
        DataError: there is no question.
    """
    asked: Any = record.get("question")
    turns = record.get("messages")
    if isinstance(turns, (list, tuple)) and turns:
        one = turns[0] if len(turns) == 1 and isinstance(turns[0], Mapping) else None
        asked = turns if one is None else one.get("content")
    if asked is None:
        raise DataError("field 'id': missing, and there is no question to make one of")
    if isinstance(asked, (int, float)) and not isinstance(asked, bool):
        asked = str(asked)
    options = record.get("options")
    if isinstance(options, (list, tuple)):
        options = [str(each) for each in options]
    try:
        content = json.dumps([asked, options], ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError):
        raise DataError(f"field 'question': expected a string, found {kind_of(asked)}") from None
    return CONTENT_ID + hashlib.blake2b(content, digest_size=10).hexdigest()
