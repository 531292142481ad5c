"""Options as people write them: a list under `choices`, an object by letters, ARC's two lists.

Owns the shapes and what an answer by one of their names means; not which options are valid (semievol.tasks.closed).
Pure. Invariant: options keep their order, and an answer that names one of them becomes its letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semievol.errors import DataError
from semievol.tasks.closed import MAX_OPTIONS, option_letter

CHOICES = "choices"
_ONE = (str, int, float)


def put_options(record: dict[str, Any], *, known: bool = True) -> bool:
    """Bring a record's options, and the answer that names one of them, into our own form, in place.

    Returns whether they stood under `choices`.

    Args:
        record: what is changed.
        known: `choices` are options; off where a setting says what the columns mean, and does not name it.

    Raises:
        DataError: two options have one name.
    """
    name = CHOICES if known and record.get("options") is None else "options"
    found = _named(record.get(name))
    if found is None:
        return False
    names, texts = found
    if len(set(names)) != len(names):
        raise DataError(f"field {name!r}: two options have one name; name each differently")
    del record[name]
    record["options"] = texts
    answer = record.get("answer")
    if isinstance(answer, _ONE) and str(answer).strip() in names[:MAX_OPTIONS]:
        record["answer"] = option_letter(names.index(str(answer).strip()))
    return name == CHOICES


def _named(value: Any) -> tuple[list[str], list[Any]] | None:
    """(names, texts) of options; names are empty where there are none; None: it is no list of options."""
    if isinstance(value, Mapping):
        texts, names = value.get("text"), value.get("label")
        if isinstance(texts, (list, tuple)) and isinstance(names, (list, tuple)) and len(texts) == len(names):
            return [str(each).strip() for each in names], list(texts)
        names, texts = [str(each).strip() for each in value], list(value.values())
    else:
        names, texts = [], list(value) if isinstance(value, (list, tuple)) else []
    return (names, texts) if len(texts) > 1 and all(isinstance(each, _ONE) for each in texts) else None
