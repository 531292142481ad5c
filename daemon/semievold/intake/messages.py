"""Stream records in and out: what is valid, what the fix is when it is not, and how results are written.

Owns the record schemas (version 1) and the poison reasons, no I/O. Unknown fields are kept in `metadata`.
Invariant: whatever bytes arrive, parsing returns a value or raises PoisonRecord; nothing else.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from semievol.errors import DataError
from semievol.examples.json_values import (
    MAX_ID_CHARS,
    MAX_INTEGER,
    Fault,
    fault_of,
    fault_of_json,
    id_problem,
    mended_text,
    timestamp_problem,
)
from semievol.examples.records import KNOWN_FIELDS, example_of, example_to_json, query_to_json, said_once
from semievol.plain_lines import one_line
from semievol.tasks.task import Task
from semievol.types import Example, Message, PseudoLabel, Query, Role
from semievold.errors import PoisonRecord, Reason
from semievold.streams.protocol import CLIENT_HEADER as CLIENT_HEADER
from semievold.streams.protocol import CUT_HEADER, UNREAD_HEADER, OutgoingRecord, StreamRecord

SCHEMA_VERSION = 1
MAX_NAME_CHARS = 200
"""Categories and sources are names; the state's columns end there."""
MAX_LETTER_BYTES = 8 * 1024 * 1024
"""Of a dead letter's value: one record of a few compressed kilobytes may hold 200 MB."""
MAX_DETAIL_CHARS = 400
"""Dead-letter details are for people, and header space is small."""

_TYPES = ("str", "int", "float", "constrained-int")
_B3 = ("traceid", "spanid", "parentspanid", "sampled", "flags")
TRACE_HEADERS = frozenset(("traceparent", "tracestate", "b3", *(f"x-b3-{name}" for name in _B3)))
MAX_TRACE_CHARS = 512
"""What W3C Trace Context asks everybody to pass on of `tracestate`; nothing else of a trace is longer."""
_SOURCE = re.compile(r"[\x21-\x7e]{1,64}")
_CLIENT = re.compile(r"[0-9a-f]{32}", re.ASCII)
NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


class _Turn(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    role: str
    content: str


_Whole = Annotated[int, Field(ge=-MAX_INTEGER - 1, le=MAX_INTEGER)]
_Text = str | _Whole
"""Numbers are taken as text, as in files: ids, ratings and options are often whole numbers."""
_Answer = str | _Whole | float
"""Answers and options are also decimal numbers."""


class _QueryRecord(BaseModel):
    """`semievol.queries`, version 1."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    schema_version: _Text = SCHEMA_VERSION
    id: _Text
    question: _Text | None = None
    messages: tuple[_Turn, ...] | None = None
    options: tuple[_Answer, ...] | None = None
    category: _Text | None = None
    metadata: dict[str, Any] | None = None


class _LabelRecord(_QueryRecord):
    """`semievol.labels`, version 1."""

    answer: _Answer
    answers: tuple[_Answer, ...] | None = None
    source: _Text | None = None


_Record = TypeVar("_Record", bound=_QueryRecord)


@dataclass(frozen=True, slots=True)
class Retraction:
    """A null value on the labels topic: the example with this id is withdrawn."""

    id: str


class _DenialRecord(_QueryRecord):
    """`semievol.labels`, version 1, of the gateway: what a client says is wrong."""

    wrong: _Answer
    answer: None = None
    source: Literal["feedback"]


@dataclass(frozen=True, slots=True)
class Denial:
    """A client's word that the answer of `example` is wrong: evidence against it, and no label."""

    example: Example

    @property
    def id(self) -> str:
        return self.example.id


class RecordParser:
    """Turns stream records into queries and examples of one task."""

    def __init__(self, task: Task, max_record_bytes: int) -> None:
        self.task = task
        self._max_record_bytes = max_record_bytes

    def query(self, record: StreamRecord) -> Query:
        """The query that a record of the queries topic asks.

        Raises:
            PoisonRecord: it can never be processed; names the field and the fix.
        """
        _check_read(record)
        if record.value is None:
            raise PoisonRecord(Reason.NO_VALUE, "a query cannot be null; send a JSON object with id and question")
        query = self._query(self._validated(_QueryRecord, record.value))
        client = record.headers.get(CLIENT_HEADER, "") if record.headers else ""
        if not _SOURCE.fullmatch(client):
            return query
        return replace(query, metadata={**query.metadata, CLIENT_HEADER: client})

    def label(self, record: StreamRecord) -> Example | Retraction | Denial:
        """The example that a record of the labels topic gives, with its canonical answers, or takes back, or denies.

        Raises:
            PoisonRecord: it can never be processed; names the field and the fix.
        """
        _check_read(record)
        if record.value is None:
            if not record.key:
                raise PoisonRecord(Reason.NO_KEY, "a null value retracts the label that its key names; set the key")
            return Retraction(_checked_id(record.key, "the key"))
        if b'"wrong"' in record.value and _is_denial(record.value):
            denied = self._validated(_DenialRecord, record.value)
            return Denial(self._example(denied, [str(denied.wrong)], denied.source))
        parsed = self._validated(_LabelRecord, record.value)
        answers = [str(answer) for answer in (parsed.answer, *(parsed.answers or ()))]
        return self._example(parsed, answers, _optional_text("source", parsed.source))

    def example(self, fields: Mapping[str, Any]) -> Example:
        """The example that a record of the labels topic with these fields gives: checked as one that came from it.

        Raises:
            PoisonRecord: as `label`.
        """
        value = pydantic_core.to_json({"schema_version": SCHEMA_VERSION, **fields})
        found = self.label(StreamRecord("", 0, 0, None, value, {}, 0.0))
        assert isinstance(found, Example)  # only a null value is a retraction, and only `wrong` a denial
        return found

    def _example(self, parsed: _QueryRecord, answers: Sequence[str], source: str | None) -> Example:
        query = self._query(parsed)
        try:
            return example_of(query, answers, self.task, source)
        except DataError as error:
            raise PoisonRecord(Reason.ANSWER_NOT_ALLOWED, _short(str(error))) from error

    def _validated(self, model: type[_Record], value: bytes) -> _Record:
        value = value.removeprefix(codecs.BOM_UTF8)
        if len(value) > self._max_record_bytes:
            raise PoisonRecord(
                Reason.TOO_LARGE,
                f"{len(value)} bytes are more than stream.max_record_bytes = {self._max_record_bytes}; shorten it",
            )
        try:
            parsed = model.model_validate_json(value)
        except ValidationError as error:
            if (fault := fault_of_json(value)) is not None:
                raise _faulty(fault) from error
            raise _poison(error, value) from error
        # What has a type of its own was checked by it; a NUL may be anywhere.
        fault = fault_of_json(value) if b"\\u0000" in value else None
        if fault is None and parsed.model_extra:
            fault = fault_of(parsed.model_extra)
        if fault is None and parsed.metadata:
            fault = fault_of(parsed.metadata, "metadata")
        if fault is not None:
            raise _faulty(fault)
        _check_version(parsed.schema_version)
        return parsed

    def _query(self, parsed: _QueryRecord) -> Query:
        identity = _checked_id(str(parsed.id))
        question, messages = _asked(parsed)
        limit = self.task.config.max_question_chars
        length = len(question) if messages is None else sum(len(turn.content) for turn in messages)
        if length > limit:
            raise PoisonRecord(
                Reason.QUESTION_TOO_LONG,
                f"{'question' if messages is None else 'messages'}: {length} characters are more than "
                f"task.max_question_chars = {limit}; shorten it or raise the limit",
            )
        extra = parsed.model_extra or {}
        if "timestamp" in extra and (problem := timestamp_problem(extra["timestamp"])) is not None:
            raise PoisonRecord(Reason.INVALID_FIELD, f"timestamp: {problem}")
        query = Query(
            id=identity,
            question=question,
            options=None if parsed.options is None else tuple(map(str, parsed.options)),
            messages=messages,
            category=_optional_text("category", parsed.category),
            metadata={**{k: v for k, v in extra.items() if k not in KNOWN_FIELDS}, **(parsed.metadata or {})},
        )
        try:
            self.task.check_query(query)
        except DataError as error:
            raise PoisonRecord(Reason.INVALID_QUERY, _short(str(error))) from error
        return query


def query_record(query: Query) -> OutgoingRecord:
    """A record for the queries topic."""
    return OutgoingRecord(query.id, _record_bytes(query, query_to_json(query)))


def label_record(example: Example, headers: Mapping[str, str] = NO_HEADERS) -> OutgoingRecord:
    """A record for the labels topic."""
    return OutgoingRecord(example.id, _record_bytes(example.query, example_to_json(example)), headers)


def denial_record(denied: Example, headers: Mapping[str, str] = NO_HEADERS) -> OutgoingRecord:
    """A record for the labels topic: the answer of `denied` is wrong. A reader that is older finds no answer in it."""
    fields = example_to_json(denied)
    fields["wrong"] = fields.pop("answer")
    return OutgoingRecord(denied.id, _record_bytes(denied.query, fields), headers)


def _record_bytes(query: Query, fields: dict[str, Any]) -> bytes:
    return pydantic_core.to_json({"schema_version": SCHEMA_VERSION, **said_once(query, fields)})


def prediction_record(label: PseudoLabel, headers: Mapping[str, str] = NO_HEADERS) -> OutgoingRecord:
    """A record for the predictions topic.

    `entropy` is null when it is infinite (no candidate parsed). `selected` is null: no round has decided yet.
    `headers` are those of the query's record, of which the trace's are kept.
    """
    value = {
        "schema_version": SCHEMA_VERSION,
        "id": label.query.id,
        "answer": label.answer,
        "entropy": label.entropy if math.isfinite(label.entropy) else None,
        "agreement": label.agreement,
        "confidence": label.confidence,
        "adapter": label.adapter,
        "neighbours": [neighbour[0] for neighbour in label.neighbours],
        "selected": None,
    }
    return OutgoingRecord(label.query.id, pydantic_core.to_json(value), trace_of(headers))


def trace_of(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that name the trace which a record belongs to (W3C Trace Context, B3), but none that is too long."""
    return {
        name: value
        for name, value in headers.items()
        if name.lower() in TRACE_HEADERS and len(value) <= MAX_TRACE_CHARS
    }


def client_of(headers: Mapping[str, str]) -> str:
    """Who said a label that is feedback; empty where the header is not one that the gateway writes."""
    client = headers.get(CLIENT_HEADER, "")
    return client if _CLIENT.fullmatch(client) else ""


def dead_letter(record: StreamRecord, poison: PoisonRecord, workload: str, max_record_bytes: int = 0) -> OutgoingRecord:
    """The record as it came, with what was wrong in the headers beside its own.

    A value far beyond any topic's limit is cut; what its own topic takes is for the producer to find out. A record
    without a key gets its place as one, because a compacted topic takes none without.
    """
    value, most = record.value, max(MAX_LETTER_BYTES, max_record_bytes)
    cut = {} if value is None or len(value) <= most else {CUT_HEADER: str(len(value))}
    headers: Mapping[str, str] = {
        **record.headers,
        **cut,
        "reason": poison.reason.value,
        "detail": _short(mended_text(poison.detail)),
        "source_topic": record.topic,
        "source_partition": str(record.partition),
        "source_offset": str(record.offset),
        "workload": workload,
    }
    key = f"{record.topic}-{record.partition}-{record.offset}" if record.key is None else record.key
    return OutgoingRecord(key, None if value is None else value[:most], headers)


# --- the checks -----------------------------------------------------------------------------------------------------


def _is_denial(value: bytes) -> bool:
    """Whether it is one; a label may have a field of any name beside its own."""
    try:
        _DenialRecord.model_validate_json(value.removeprefix(codecs.BOM_UTF8))
    except ValidationError:
        return False
    return True


def _check_read(record: StreamRecord) -> None:
    if record.headers and (unread := record.headers.get(UNREAD_HEADER)) is not None:
        raise PoisonRecord(Reason.TOO_LARGE, _short(unread))


def _check_version(version: int | str) -> None:
    major = str(version).partition(".")[0]
    if major != str(SCHEMA_VERSION):
        raise PoisonRecord(
            Reason.SCHEMA_VERSION,
            f"schema_version: {_short(repr(version), 40)} is not supported; this version reads {SCHEMA_VERSION}",
        )


def _checked_id(value: str, field: str = "id") -> str:
    identity = value.strip()
    problem = id_problem(identity)
    if problem is None:
        return identity
    if not identity:
        raise PoisonRecord(Reason.MISSING_FIELD, f"{field}: empty; give every query an id of its own")
    if len(identity) > MAX_ID_CHARS:
        raise PoisonRecord(Reason.ID_TOO_LONG, f"{field}: {len(identity)} characters are more than {MAX_ID_CHARS}")
    raise PoisonRecord(Reason.INVALID_FIELD, f"{field}: {problem}")


def _asked(parsed: _QueryRecord) -> tuple[str, tuple[Message, ...] | None]:
    """The question and, for a conversation, all its turns."""
    if parsed.question is not None and parsed.messages is not None:
        raise PoisonRecord(Reason.INVALID_FIELD, "question, messages: both are set; send one of them")
    if parsed.messages is None:
        if parsed.question is None:
            raise PoisonRecord(Reason.MISSING_FIELD, "question: missing; send question, or messages for a conversation")
        question = str(parsed.question)
        if not question.strip():
            raise PoisonRecord(Reason.MISSING_FIELD, "question: empty; say what is asked")
        return question, None
    turns = []
    for number, turn in enumerate(parsed.messages):
        if turn.role not in _ROLES:
            raise PoisonRecord(
                Reason.INVALID_FIELD,
                f"messages.{number}.role: {_short(repr(turn.role), 40)}; use one of {', '.join(_ROLES)}",
            )
        turns.append(Message(_ROLES[turn.role], turn.content))
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        raise PoisonRecord(Reason.INVALID_FIELD, "messages: the last turn must be a user's and say what is asked")
    return turns[-1].content, tuple(turns)


def _optional_text(field: str, value: str | int | None) -> str | None:
    if value is None:
        return None
    text = str(value)
    if len(text) > MAX_NAME_CHARS:
        raise PoisonRecord(
            Reason.INVALID_FIELD, f"{field}: {len(text)} characters are more than {MAX_NAME_CHARS}; shorten it"
        )
    return text


def _faulty(fault: Fault) -> PoisonRecord:
    return PoisonRecord(Reason.INVALID_FIELD, _short(str(fault)))


def _poison(error: ValidationError, value: bytes) -> PoisonRecord:
    """The first thing that is wrong, in terms of the sender's fields."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    text = _short(str(first["msg"]))
    if first["type"] == "json_invalid":
        try:
            value.decode()
        except UnicodeDecodeError as broken:
            return PoisonRecord(Reason.NOT_UTF8, f"byte {broken.start} is not UTF-8; encode the record as UTF-8 JSON")
        return PoisonRecord(Reason.MALFORMED_JSON, f"{text}; send one JSON object")
    # The path of the faulty field; the names of the types that were tried in turn are not the sender's business.
    field = ".".join(str(part) for part in first["loc"] if part not in _TYPES)
    if not field:
        return PoisonRecord(Reason.MALFORMED_JSON, f"{text}; send one JSON object")
    if first["type"] == "missing":
        return PoisonRecord(Reason.MISSING_FIELD, f"{field}: missing; it is required")
    return PoisonRecord(Reason.INVALID_FIELD, f"{field}: {text}")


def _short(text: str, limit: int = MAX_DETAIL_CHARS) -> str:
    text = one_line(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
