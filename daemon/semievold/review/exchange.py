"""Items of the review as labelling tools read them, and what they export again.

Owns the forms: Label Studio's tasks (JSON, JSON_MIN or CSV), Argilla's records (JSON) and plain tables. Pure.
Invariant: an item comes back under the name it went out with, whatever a tool has added; where several annotators say
different things, nothing is chosen.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from semievol.errors import DataError

Format = Literal["labelstudio", "argilla", "csv"]
FORMATS: tuple[Format, ...] = ("labelstudio", "argilla", "csv")
COLUMNS = ("review", "id", "purpose", "question", "options", "candidates", "answers", "answer")
KNOWN = frozenset({*COLUMNS, "data", "annotations", "fields", "responses", "external_id"})
"""Names that tell a row."""
FIELD = "answer"
"""What a tool calls the answer: `from_name` in Label Studio, the name of the question in Argilla."""


class Said(NamedTuple):
    """What a tool says: the name of the item (`review`), or where it has none the id of its query; and the answer."""

    review: str | None
    query_id: str | None
    answer: str


def exported(items: Sequence[Mapping[str, Any]], form: Format) -> str:
    """The text of a file with these items (as `GET /v1/review` shows them) for a tool."""
    if form == "csv":
        file = io.StringIO(newline="")
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(COLUMNS)
        writer.writerows([[_cell(_flat(item)[name]) for name in COLUMNS] for item in items])
        return file.getvalue()
    made = [_task(item) if form == "labelstudio" else _record(item) for item in items]
    return json.dumps(made, ensure_ascii=False, indent=1) + "\n"


def said_in(row: Mapping[str, Any]) -> Said | None:
    """What a row of any of the forms says; None: nobody has answered it.

    Raises:
        DataError: naming the field and the fix.
    """
    if "annotations" in row or ("data" in row and "review" not in row):
        return _of_task(row)
    if "responses" in row:
        return _of_record(row)
    if "review" not in row and "id" not in row:
        raise DataError("field 'review': missing; import what was exported with its columns")
    answers = _texts(row.get(FIELD), FIELD)
    return _said(row, answers)


def _flat(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "review": item["review"],
        "id": item["id"],
        "purpose": item["purpose"],
        "question": question_of(item),
        "options": item.get("options"),
        "candidates": [each["answer"] for each in item["candidates"]],
        "answers": item["answers"],
        FIELD: None,
    }


def question_of(item: Mapping[str, Any]) -> str:
    """What is asked; of a conversation all its turns."""
    turns = item.get("messages")
    if turns is None:
        return str(item["question"])
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _task(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": {name: value for name, value in _flat(item).items() if name != FIELD and value is not None}}


def _record(item: Mapping[str, Any]) -> dict[str, Any]:
    flat = _flat(item)
    metadata = {"query_id": flat["id"], "purpose": flat["purpose"]}
    fields = {"question": flat["question"]}
    for name in ("options", "candidates"):
        if flat[name]:
            fields[name] = "\n".join(flat[name])
    return {"id": flat["review"], "fields": fields, "metadata": metadata, "suggestions": {}, "responses": {}}


def _of_task(row: Mapping[str, Any]) -> Said | None:
    data, annotations = row.get("data"), row.get("annotations", [])
    if not isinstance(data, Mapping):
        raise DataError("field 'data': expected an object, as Label Studio exports it")
    if not isinstance(annotations, list):
        raise DataError("field 'annotations': expected a list, as Label Studio exports it (JSON)")
    answers: list[str] = []
    for number, annotation in enumerate(annotations):
        if not isinstance(annotation, Mapping) or not isinstance(annotation.get("result", []), list):
            raise DataError(f"field 'annotations.{number}.result': expected a list")
        if annotation.get("was_cancelled"):
            continue
        for region in annotation.get("result", []):
            if not isinstance(region, Mapping) or not isinstance(region.get("value"), Mapping):
                raise DataError(f"field 'annotations.{number}.result': expected objects with a value")
            if region.get("from_name", FIELD) == FIELD:
                value = region["value"]
                kind = next((name for name in ("choices", "text") if name in value), None)
                if kind is None:
                    raise DataError(f"field 'annotations.{number}.result': 'answer' is neither choices nor text")
                answers += _texts(value[kind], f"annotations.{number}.result.value.{kind}")
    return _said(data, answers)


def _of_record(row: Mapping[str, Any]) -> Said | None:
    responses, metadata = row["responses"], row.get("metadata") or {}
    if not isinstance(responses, Mapping) or not isinstance(metadata, Mapping):
        raise DataError("field 'responses': expected an object of lists by question, as Argilla exports it")
    answers: list[str] = []
    given = responses.get(FIELD) or []
    if not isinstance(given, list):
        raise DataError("field 'responses.answer': expected a list")
    if responses and not given:
        raise DataError(f"field 'responses': no question is called {FIELD!r}; call it so in Argilla")
    for number, response in enumerate(given):
        if not isinstance(response, Mapping):
            raise DataError(f"field 'responses.answer.{number}': expected an object with a value")
        if response.get("status") in (None, "submitted"):
            answers += _texts(response.get("value"), f"responses.answer.{number}.value")
    review = row.get("id") or row.get("external_id")
    return _said({"review": review, "id": metadata.get("query_id")}, answers)


def _said(row: Mapping[str, Any], answers: Sequence[str]) -> Said | None:
    review, query_id = (_name(row.get(name), name) for name in ("review", "id"))
    if review is None and query_id is None:
        raise DataError("field 'review': missing; import what was exported with its names")
    different = list(dict.fromkeys(answers))
    if len(different) > 1:
        raise DataError(f"field 'answer': annotators differ: {', '.join(map(repr, different[:5]))}; settle it first")
    return Said(review, query_id, different[0]) if different else None


def _name(value: object, field: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"field {field!r}: expected a text")
    return str(value).strip() or None


def _texts(value: object, field: str) -> list[str]:
    """The answers that are not empty; a tool writes one, or a list of one."""
    if isinstance(value, Mapping) and isinstance(value.get("choices"), list):  # several, in JSON_MIN
        value = value["choices"]
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(each, str | int | float) and not isinstance(each, bool) for each in found):
        raise DataError(f"field {field!r}: expected a text")
    return [text for each in found if (text := str(each).strip())]


def _cell(value: object) -> str:
    """Lists as JSON."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
