import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config.method import TaskConfig
from semievol.examples.records import query_from_json, query_to_json
from semievol.tasks.task import Task
from semievol.types import Example, Message, PseudoLabel, Query
from semievold.errors import PoisonRecord, Reason
from semievold.intake.messages import (
    CLIENT_HEADER,
    MAX_DETAIL_CHARS,
    MAX_TRACE_CHARS,
    Denial,
    RecordParser,
    Retraction,
    client_of,
    dead_letter,
    denial_record,
    label_record,
    prediction_record,
    query_record,
)
from semievold.streams.protocol import StreamRecord

CLASSES = RecordParser(Task(TaskConfig(labels=("yes please", "no"), max_question_chars=40)), max_record_bytes=2000)
CHOICES = RecordParser(Task(TaskConfig(form="multiple_choice")), max_record_bytes=2000)


def record(value: object, key: str | None = None) -> StreamRecord:
    raw = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return StreamRecord("t", 1, 42, key, raw, {"trace": "x"}, 0.0)


def poison(value: object, *, label: bool = False, parser: RecordParser = CLASSES) -> PoisonRecord:
    with pytest.raises(PoisonRecord) as caught:
        (parser.label if label else parser.query)(record(value))
    return caught.value


def test_a_query_keeps_its_unknown_fields_as_metadata() -> None:
    query = CLASSES.query(
        record(
            {
                "schema_version": 1,
                "id": "q1",
                "question": "is it?",
                "category": "x",
                "channel": "mail",
                "metadata": {"user": 7},
                "timestamp": "2024-01-01",
            }
        )
    )
    assert query == Query("q1", "is it?", category="x", metadata={"channel": "mail", "user": 7})


def test_the_truth_that_a_query_carries_by_mistake_is_dropped() -> None:
    assert CLASSES.query(record({"id": "q1", "question": "is it?", "answer": "no"})).metadata == {}


def test_a_conversation_asks_with_its_last_turn() -> None:
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "?"},
        {"role": "user", "content": "no"},
    ]
    query = CLASSES.query(record({"id": "q1", "messages": turns}))
    assert query.question == "no"
    assert query.messages == (Message("user", "hi"), Message("assistant", "?"), Message("user", "no"))


def test_whole_numbers_are_taken_as_text_like_in_files() -> None:
    parsed = CHOICES.label(record({"id": 17, "question": "2+2?", "options": [3, 4], "answer": "B"}))
    assert isinstance(parsed, Example)
    assert (parsed.id, parsed.query.options) == ("17", ("3", "4"))


def test_ids_are_stripped_like_in_files() -> None:
    assert CLASSES.query(record({"id": " q1\n", "question": "is it?"})).id == "q1"


def test_a_minor_schema_version_is_read() -> None:
    assert CLASSES.query(record({"schema_version": "1.7", "id": "q1", "question": "is it?"})).id == "q1"


def test_a_label_is_stored_in_its_canonical_spelling() -> None:
    parsed = CLASSES.label(record({"id": "e1", "question": "is it?", "answer": "Yes-Please", "source": "crm"}))
    assert parsed == Example(Query("e1", "is it?"), "yes please", "crm")


def test_a_null_value_retracts_the_label_of_its_key() -> None:
    assert CLASSES.label(record(None, key="e1")) == Retraction("e1")


@pytest.mark.parametrize(
    ("value", "reason", "words"),
    [
        (b"", Reason.MALFORMED_JSON, "JSON object"),
        (b"{", Reason.MALFORMED_JSON, "JSON object"),
        (b'{"id": "a", "question": "b"} x', Reason.MALFORMED_JSON, "JSON object"),
        (b"[1]", Reason.MALFORMED_JSON, "JSON object"),
        (b"null", Reason.MALFORMED_JSON, "JSON object"),
        (b'"text"', Reason.MALFORMED_JSON, "JSON object"),
        (b"\xef\xbb\xbf{}", Reason.MISSING_FIELD, "id"),
        (b'{"id": "a", "question": "\xff"}', Reason.NOT_UTF8, "byte 25"),
        (b'{"id": "a", "question": "\\ud800"}', Reason.INVALID_FIELD, "question: contains half of a surrogate pair"),
        (b'{"id": "a", "question": "x", "metadata": {"p": NaN}}', Reason.INVALID_FIELD, "metadata.p: is no finite"),
        (
            b'{"id": "a", "question": "x", "deep": ' + b"[" * 900 + b"]" * 900 + b"}",
            Reason.INVALID_FIELD,
            "flatten it",
        ),
        (b'{"id": "a", "question": "x", "more": {"p": [0, 1e999]}}', Reason.INVALID_FIELD, "more.p[1]: is no finite"),
        (b'{"id": "a", "question": "x", "more": 9223372036854775808}', Reason.INVALID_FIELD, "more: is a whole number"),
        (b'{"id": 9223372036854775808, "question": "x"}', Reason.INVALID_FIELD, "id: "),
        (b'{"id": "a", "question": "x", "options": [1e999, 2]}', Reason.INVALID_FIELD, "options"),
        (
            b'{"id": "a", "question": "x", "more": ' + b"9" * 1000 + b"}",
            Reason.INVALID_FIELD,
            "more: is a whole number",
        ),
        (b'{"id": "a", "question": "x", "more": ["\\udfff"]}', Reason.INVALID_FIELD, "more[0]: contains half"),
        (b'{"id": "a", "question": "x", "": {"\\u0000": 1}}', Reason.INVALID_FIELD, "the key '\\x00' contains a NUL"),
        (b'{"id": "a\\u0007b", "question": "x"}', Reason.INVALID_FIELD, "id: contains the control character U+0007"),
        (b'{"id": "a", "question": "x", "timestamp": 1700000000000}', Reason.INVALID_FIELD, "looks like milliseconds"),
        (b'{"id": "a", "question": "x\\u0000"}', Reason.INVALID_FIELD, "question: contains a NUL"),
        ({"id": "a", "question": "x", "category": "c" * 201}, Reason.INVALID_FIELD, "category: 201"),
        (b"x" * 2001, Reason.TOO_LARGE, "max_record_bytes"),
        (None, Reason.NO_VALUE, "null"),
        ({"question": "x"}, Reason.MISSING_FIELD, "id: missing"),
        ({"id": None, "question": "x"}, Reason.INVALID_FIELD, "id:"),
        ({"id": "  ", "question": "x"}, Reason.MISSING_FIELD, "id: empty"),
        ({"id": True, "question": "x"}, Reason.INVALID_FIELD, "id:"),
        ({"id": "a" * 513, "question": "x"}, Reason.ID_TOO_LONG, "513"),
        ({"id": "a"}, Reason.MISSING_FIELD, "question: missing"),
        ({"id": "a", "question": " "}, Reason.MISSING_FIELD, "question: empty"),
        ({"id": "a", "question": ["x"]}, Reason.INVALID_FIELD, "question:"),
        ({"id": "a", "question": "x" * 41}, Reason.QUESTION_TOO_LONG, "task.max_question_chars"),
        ({"id": "a", "question": "x", "messages": []}, Reason.INVALID_FIELD, "both"),
        ({"id": "a", "messages": []}, Reason.INVALID_FIELD, "messages"),
        ({"id": "a", "messages": [{"role": "tool", "content": "x"}]}, Reason.INVALID_FIELD, "messages.0.role"),
        ({"id": "a", "messages": [{"role": "user"}]}, Reason.MISSING_FIELD, "messages.0.content"),
        ({"id": "a", "messages": [{"role": "assistant", "content": "x"}]}, Reason.INVALID_FIELD, "last turn"),
        ({"id": "a", "messages": [{"role": "user", "content": "x" * 41}]}, Reason.QUESTION_TOO_LONG, "messages"),
        ({"id": "a", "question": "x", "options": ["b", "c"]}, Reason.INVALID_QUERY, "options"),
        ({"id": "a", "question": "x", "options": "b"}, Reason.INVALID_FIELD, "options"),
        ({"id": "a", "question": "x", "metadata": []}, Reason.INVALID_FIELD, "metadata"),
        ({"schema_version": 2, "id": "a", "question": "x"}, Reason.SCHEMA_VERSION, "2"),
        ({"schema_version": "2.0", "id": "a", "question": "x"}, Reason.SCHEMA_VERSION, "2.0"),
        ({"schema_version": None, "id": "a", "question": "x"}, Reason.INVALID_FIELD, "schema_version"),
    ],
)
def test_a_poison_query_names_its_reason_and_field(value: object, reason: Reason, words: str) -> None:
    error = poison(value)
    assert error.reason is reason
    assert words in error.detail


@pytest.mark.parametrize(
    ("value", "reason", "words"),
    [
        ({"id": "a", "question": "x"}, Reason.MISSING_FIELD, "answer: missing"),
        ({"id": "a", "question": "x", "answer": ["no"]}, Reason.INVALID_FIELD, "answer"),
        ({"id": "a", "question": "x", "answer": "maybe"}, Reason.ANSWER_NOT_ALLOWED, "answer"),
        ({"id": "a", "question": "x", "answer": ""}, Reason.ANSWER_NOT_ALLOWED, "answer"),
        (None, Reason.NO_KEY, "key"),
    ],
)
def test_a_poison_label_names_its_reason_and_field(value: object, reason: Reason, words: str) -> None:
    error = poison(value, label=True)
    assert error.reason is reason
    assert words in error.detail


@pytest.mark.parametrize("options", [None, [], ["one"], ["one", " "], ["x"] * 27])
def test_a_multiple_choice_query_needs_usable_options(options: object) -> None:
    assert poison({"id": "a", "question": "x", "options": options}, parser=CHOICES).reason is Reason.INVALID_QUERY


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert CLASSES.query(record(b'{"id": "a", "question": "x\\\\u0000"}')).question == "x\\u0000"


def test_the_words_nan_and_infinity_are_allowed_in_texts() -> None:
    assert CLASSES.query(record({"id": "a", "question": "NaN or Infinity?"})).question == "NaN or Infinity?"


def test_details_stay_short_whatever_was_sent() -> None:
    steering = PoisonRecord(Reason.INVALID_FIELD, "field 'a\x1b[2J\nb\u2028': unknown")
    assert str(steering) == "invalid_field: field 'a\\u001b[2J\\nb\\u2028': unknown"
    assert dead_letter(record({"id": "a"}), steering, "w").headers["detail"] == steering.detail
    letter = dead_letter(record({"id": "a"}), PoisonRecord(Reason.INVALID_FIELD, "x" * 10_000), "w")
    assert len(letter.headers["detail"]) == MAX_DETAIL_CHARS


def test_a_dead_letter_is_the_record_as_it_came_with_its_origin_in_the_headers() -> None:
    letter = dead_letter(record(b"\xff", key="k"), PoisonRecord(Reason.NOT_UTF8, "why"), "w")
    assert (letter.key, letter.value) == ("k", b"\xff")
    assert letter.headers == {
        "trace": "x",
        "reason": "invalid_utf8",
        "detail": "why",
        "source_topic": "t",
        "source_partition": "1",
        "source_offset": "42",
        "workload": "w",
    }


def test_a_dead_letter_of_a_record_without_a_key_has_its_place_as_one() -> None:
    poison = PoisonRecord(Reason.NOT_UTF8, "why")
    assert dead_letter(record(b"\xff"), poison, "w").key == "t-1-42"
    assert dead_letter(record(b"\xff", key=""), poison, "w").key == ""


def test_who_said_it_is_a_hash_of_the_gateway_or_nobody() -> None:
    known = "0123456789abcdef" * 2
    assert client_of({CLIENT_HEADER: known}) == known
    for strange in ("", "one", known[1:], known + "0", known.upper(), known[:-1] + "\0", known + "\n", "\0" * 32):
        assert client_of({CLIENT_HEADER: strange}) == ""
    assert client_of({}) == ""


def test_a_prediction_without_a_parsed_answer_has_no_entropy() -> None:
    label = PseudoLabel(Query("q", "?"), None, float("inf"), 0.0, 0.0, False, None, (("e1", 0.5),), ())
    assert json.loads(prediction_record(label).value or b"") == {
        "schema_version": 1,
        "id": "q",
        "answer": None,
        "entropy": None,
        "agreement": 0.0,
        "confidence": 0.0,
        "adapter": None,
        "neighbours": ["e1"],
        "selected": None,
    }


def as_read(outgoing: Any) -> StreamRecord:
    return StreamRecord("t", 0, 0, outgoing.key, outgoing.value, outgoing.headers, 0.0)


def test_what_is_written_is_what_is_read() -> None:
    asked = (
        Query("q1", "wie, bitte? 质", category="c", metadata={"a": [1, {"b": None}]}),
        Query("q2", "b?", messages=(Message("system", "s"), Message("user", "b?"))),
    )
    for query in asked:
        example = Example(query, "no", "crm")
        assert CLASSES.query(as_read(query_record(query))) == query
        assert CLASSES.label(as_read(label_record(example))) == example


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
records = st.dictionaries(
    st.sampled_from(
        ["schema_version", "id", "question", "messages", "options", "category", "metadata", "answer", "source", "more"]
    ),
    json_values | st.just(1) | st.just("x"),
)


@given(st.binary(max_size=80) | records.map(lambda value: json.dumps(value).encode()))
def test_whatever_arrives_is_a_value_or_a_poison_record(value: bytes) -> None:
    for parser in (CLASSES, CHOICES):
        for parse in (parser.query, parser.label):
            try:
                parsed = parse(record(value))
            except PoisonRecord as error:
                assert error.detail  # noqa: PT017 - both ways out are right
            else:
                query = parsed.query if isinstance(parsed, Example) else parsed
                assert query_from_json(query_to_json(query)) == query


def test_a_label_may_have_several_true_answers() -> None:
    numeric = RecordParser(Task(TaskConfig(form="numeric")), max_record_bytes=2000)
    parsed = numeric.label(record({"id": "q1", "question": "how many?", "answer": 0.125, "answers": [12.5, 7]}))
    assert isinstance(parsed, Example)
    assert parsed.answers == ("0.125", "12.5", "7")
    short = RecordParser(Task(TaskConfig(form="short_answer")), max_record_bytes=2000)
    sent = {"id": "q1", "question": "how many?", "answer": "three yards", "answers": ["three yards", 3, "3"]}
    parsed = short.label(record(sent))
    assert parsed == Example(Query("q1", "how many?"), "three yards", None, ("3",))
    assert short.label(record(label_record(parsed).value)) == parsed
    assert short.query(record(sent)).metadata == {}
    assert poison({**sent, "answers": ["no", "maybe"], "answer": "no"}, label=True).reason is Reason.ANSWER_NOT_ALLOWED
    assert poison({**sent, "answers": "no"}, label=True).reason is Reason.INVALID_FIELD


def test_the_trace_of_a_query_is_that_of_its_prediction_and_nothing_longer_passes() -> None:
    trace = {
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate": "v" * MAX_TRACE_CHARS,
        "X-B3-TraceId": "463ac35c9f6413ad",
    }
    label = PseudoLabel(Query("q", "?"), "a", 0.1, 1.0, 1.0, False, None, (), ())
    headers = {**trace, "b3": "b" * (MAX_TRACE_CHARS + 1), "authorization": "a secret", "baggage": "user=1"}
    assert prediction_record(label, headers).headers == trace


def test_a_denial_is_read_back_and_is_no_label_to_who_does_not_know_it() -> None:
    denied = Example(Query("q1", "is it?"), "no", "feedback")
    sent = denial_record(denied, {CLIENT_HEADER: "1" * 32})
    assert CLASSES.label(StreamRecord("t", 0, 0, sent.key, sent.value, sent.headers, 0.0)) == Denial(denied)
    fields = json.loads(sent.value or b"")
    assert "answer" not in fields
    for changed in ({"source": "operator"}, {"source": None}, {"answer": "no"}):
        found = {**fields, **changed}
        if "answer" in changed:
            assert CLASSES.label(record(found)) == Example(
                Query("q1", "is it?", metadata={"wrong": "no"}), "no", "feedback"
            )
        else:
            assert "answer" in poison(found, label=True).detail
    assert poison({**fields, "wrong": "maybe"}, label=True).reason is Reason.ANSWER_NOT_ALLOWED


@pytest.mark.parametrize(
    ("header", "source"),
    [("1" * 32, "1" * 32), ("team-a", "team-a"), ("", None), ("two words", None), ("x" * 65, None), ("a\n", None)],
)
def test_who_asked_is_what_the_header_says(header: str, source: str | None) -> None:
    headers = {CLIENT_HEADER: header}
    value = json.dumps({"id": "q1", "question": "is it?", "channel": "mail"}).encode()
    query = CLASSES.query(StreamRecord("t", 0, 0, None, value, headers, 0.0))
    assert query.metadata == {"channel": "mail", **({} if source is None else {CLIENT_HEADER: source})}
