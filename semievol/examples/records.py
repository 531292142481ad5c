"""Records in and out: queries, examples and pseudo-labels as JSON objects.

Owns the JSON form of a query, which files, stream and store share. Knows nothing of files, topics or tables.
Invariant: a record is read whole and valid, or refused by a DataError that names the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from semievol.errors import DataError
from semievol.examples.json_values import fault_of, id_problem, mended, text_problem
from semievol.tasks.task import Task
from semievol.types import CandidateAnswer, Example, Message, PseudoLabel, Query, Role

# The fields of a record that mean something; every other field is kept in the query's metadata.
_QUERY_FIELDS = {"id", "question", "messages", "options", "category", "metadata"}
KNOWN_FIELDS = frozenset(_QUERY_FIELDS | {"schema_version", "timestamp", "answer", "answers", "source"})
_ROLES: tuple[Role, ...] = ("system", "user", "assistant")

Row = Mapping[str, Any]


def query_from_json(row: Row) -> Query:
    """Build a query from `{"id", "question" | "messages", "options"?, "category"?, "metadata"?}`.

    Raises:
        DataError: naming the field.
    """
    messages = _messages(row.get("messages"))
    question = row.get("question")
    if question is None and messages:
        question = next((message.content for message in reversed(messages) if message.role == "user"), None)
    if question is None:
        raise DataError("field 'question': missing (or give 'messages' with a user turn)")
    metadata = row.get("metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise DataError(f"field 'metadata': expected an object, found {kind_of(metadata)}")
    unknown = {key: value for key, value in row.items() if key not in KNOWN_FIELDS}
    return Query(
        id=record_id(row.get("id")),
        question=_text(question, "question"),
        options=_options(row.get("options")),
        messages=messages,
        category=None if row.get("category") is None else _text(row["category"], "category"),
        metadata={**checked_values(unknown), **checked_values(metadata or {}, "metadata")},
    )


def stored_query(row: Row, identity: str) -> Query:
    """A query as some version of `query_to_json` has left it in a state: read also where it would be refused today.

    Args:
        row: what was kept; values that no store takes any more are mended (semievol.examples.json_values).
        identity: its id, as the state has it.

    Raises:
        DataError: there is no query in it.
    """
    kept = row if fault_of(row) is None else mended(row)
    return replace(query_from_json({**kept, "id": "-"}), id=identity)


def query_to_json(query: Query) -> dict[str, Any]:
    """The JSON-able form that `query_from_json` reads back to an equal query."""
    row: dict[str, Any] = {"id": query.id, "question": query.question}
    if query.options is not None:
        row["options"] = list(query.options)
    if query.messages is not None:
        row["messages"] = [{"role": message.role, "content": message.content} for message in query.messages]
    if query.category is not None:
        row["category"] = query.category
    if query.metadata:
        row["metadata"] = dict(query.metadata)
    return row


def said_once(query: Query, fields: dict[str, Any]) -> dict[str, Any]:
    """The JSON-able form of a query, or of an example of it, as records have it: of a conversation without the
    question, which its last turn says. Changes `fields`.
    """
    if query.messages is not None:
        del fields["question"]
    return fields


def example_from_json(row: Row, task: Task | None = None) -> Example:
    """Build an example: a query's fields plus `answer`, and optional `answers` (others are right as well) and `source`.

    With a task, the query is checked and the answers are made canonical.

    Raises:
        DataError: naming the field.
    """
    query = query_from_json(row)
    if task is not None:
        task.check_query(query)
    source = row.get("source")
    return example_of(query, answers_of(row), task, None if source is None else _text(source, "source"))


def example_of(query: Query, answers: Sequence[str], task: Task | None, source: str | None = None) -> Example:
    """The example whose answer is the first of `answers`, the others being right as well; with a task, canonical.

    Raises:
        DataError: one of them is no answer to this query.
    """
    known = [answer if task is None else task.canonical(answer, query) for answer in answers]
    return Example(query, known[0], source, tuple(dict.fromkeys(each for each in known if each != known[0])))


def stored_example(row: Row, identity: str) -> Example:
    """As `stored_query`, of what `example_to_json` has left.

    Raises:
        DataError: there is no example in it.
    """
    kept = row if fault_of(row) is None else mended(row)
    example = example_from_json({**kept, "id": "-"})
    return replace(example, query=replace(example.query, id=identity))


def example_to_json(example: Example) -> dict[str, Any]:
    """The JSON-able form that `example_from_json` reads back to an equal example."""
    row = {**query_to_json(example.query), "answer": example.answer}
    if example.alternatives:
        row["answers"] = list(example.alternatives)
    if example.source is not None:
        row["source"] = example.source
    return row


def pseudo_label_to_json(label: PseudoLabel) -> dict[str, Any]:
    """The JSON-able form that `pseudo_label_from_json` reads back; an infinite entropy is null."""
    return {
        **query_to_json(label.query),
        "answer": label.answer,
        "entropy": _finite(label.entropy),
        "agreement": label.agreement,
        "confidence": label.confidence,
        "justified": label.justified,
        "adapter": label.adapter,
        "neighbours": [list(pair) for pair in label.neighbours],
        "candidates": [{**asdict(each), "entropy": _finite(each.entropy)} for each in label.candidates],
        "prompt_tokens": label.prompt_tokens,
        "generated_tokens": label.generated_tokens,
        **({} if label.consensus is None else {"consensus": label.consensus}),
        **({} if label.right is None else {"right": label.right}),
    }


def pseudo_label_from_json(row: Row) -> PseudoLabel:
    """Build a pseudo-label; fields that are neither its own nor its query's are ignored.

    Raises:
        DataError: naming what is wrong.
    """
    query = query_from_json({key: value for key, value in row.items() if key in _QUERY_FIELDS})
    try:
        candidates = [{**each, "entropy": _measured(each["entropy"])} for each in row["candidates"]]
        return PseudoLabel(
            query=query,
            answer=None if row["answer"] is None else answer_of(row),
            entropy=_measured(row["entropy"]),
            agreement=float(row["agreement"]),
            confidence=float(row["confidence"]),
            justified=bool(row["justified"]),
            adapter=row["adapter"],
            neighbours=tuple((str(example_id), float(similarity)) for example_id, similarity in row["neighbours"]),
            candidates=tuple(CandidateAnswer(**each) for each in candidates),
            prompt_tokens=int(row.get("prompt_tokens", 0)),
            generated_tokens=int(row.get("generated_tokens", 0)),
            consensus=None if row.get("consensus") is None else float(row["consensus"]),
            right=None if row.get("right") is None else float(row["right"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"is not a pseudo-label ({error!r}); write it with `semievol label`") from None


def record_id(value: object) -> str:
    """The id of a record: a non-empty string of at most 512 characters; whole numbers are taken as text."""
    if value is None:
        raise DataError("field 'id': missing")
    text = _text(value, "id").strip()
    if (problem := id_problem(text)) is not None:
        raise DataError(f"field 'id': {problem}")
    return text


def answer_of(row: Row) -> str:
    """The raw answer of a labelled row."""
    if row.get("answer") is None:
        raise DataError("field 'answer': missing")
    return _text(_plain(row["answer"]), "answer")


def answers_of(row: Row) -> tuple[str, ...]:
    """The raw answers of a labelled row: `answer`, then those of the list `answers`, which may repeat it."""
    return (answer_of(row), *(_texts(row.get("answers"), "answers") or ()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _measured(value: float | None) -> float:
    return math.inf if value is None else float(value)


def _text(value: object, field: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if (fault := fault_of(value)) is not None:
            raise DataError(f"field {field!r}: {fault.problem}")
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"field {field!r}: expected a string, found {kind_of(value)}")
    if (problem := text_problem(value)) is not None:
        raise DataError(f"field {field!r}: {problem}")
    return value


def _options(value: object) -> tuple[str, ...] | None:
    """An option that is NaN is the text "None": tables take that word for a missing value (MMLU's have some)."""
    if isinstance(value, (list, tuple)):
        value = ["None" if isinstance(each, float) and math.isnan(each) else each for each in value]
    return _texts(value, "options")


def _texts(value: object, field: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        raise DataError(f"field {field!r}: expected a list of strings, found {kind_of(value)}")
    return tuple(_text(_plain(each), field) for each in value)


def _plain(value: object) -> object:
    """Numbers are often answers and options: a decimal one is taken as the text that it is written as."""
    return repr(value) if isinstance(value, float) and math.isfinite(value) else value


def _messages(value: object) -> tuple[Message, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError('field \'messages\': expected a non-empty list of {"role", "content"} objects')
    messages = []
    for index, item in enumerate(value):
        role = item.get("role") if isinstance(item, Mapping) else None
        if role not in _ROLES:
            raise DataError(f"field 'messages[{index}].role': must be one of {', '.join(_ROLES)}")
        messages.append(Message(role, _text(item.get("content"), f"messages[{index}].content")))
    return tuple(messages)


def checked_values(values: Row, field: str = "") -> Row:
    """`values`, of which every store takes each (json_values).

    Raises:
        DataError: one it does not take, by the path below `field`.
    """
    if (fault := fault_of(values, field)) is not None:
        raise DataError(f"field {fault.field!r}: {fault.problem}" if fault.field else str(fault))
    return values


def kind_of(value: object) -> str:
    names = {type(None): "null", bool: "true or false", float: "a decimal number", int: "a number", str: "a string"}
    names |= {list: "a list", dict: "an object"}
    if isinstance(value, float) and math.isnan(value):
        return "NaN (what tables make of an empty cell, or of the word None)"
    return names.get(type(value), type(value).__name__)
