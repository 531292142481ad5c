import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config.method import TaskConfig
from semievol.errors import ConfigError, DataError
from semievol.examples import data
from semievol.tasks.task import Task
from semievol.types import CandidateAnswer, Example, Message, PseudoLabel, Query

OPEN = Task(TaskConfig())
CLOSED = Task(TaskConfig(labels=("taxes", "pto balance")))
CHOICE = Task(TaskConfig(form="multiple_choice"))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


# --- one record -----------------------------------------------------------------------------------------------------

# What a JSON file can hold: no NUL, no half surrogates.
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
SOME_TEXT = TEXT.filter(lambda text: bool(text.strip()))
MESSAGES = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXT)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
QUERIES = st.builds(
    Query,
    id=SOME_TEXT.map(str.strip).map(lambda text: text[:500].strip()),
    question=TEXT,
    options=st.none() | st.lists(TEXT, max_size=4).map(tuple),
    messages=st.none() | st.lists(MESSAGES, min_size=1, max_size=3).map(tuple),
    category=st.none() | TEXT,
    metadata=st.dictionaries(TEXT, JSON, max_size=3),
)


@given(QUERIES)
def test_a_query_survives_the_round_trip_through_json(query: Query) -> None:
    assert data.query_from_json(json.loads(json.dumps(data.query_to_json(query)))) == query


@given(QUERIES, st.lists(TEXT, min_size=1, max_size=4, unique=True), st.none() | TEXT)
def test_an_example_survives_the_round_trip_through_json(query: Query, answers: list[str], source: str | None) -> None:
    example = Example(query, answers[0], source, tuple(answers[1:]))
    assert data.example_from_json(json.loads(json.dumps(data.example_to_json(example)))) == example


@given(QUERIES, st.none() | TEXT, st.sampled_from([0.5, math.inf]))
def test_a_pseudo_label_survives_the_round_trip_through_json(query: Query, answer: str | None, entropy: float) -> None:
    label = PseudoLabel(
        query=query,
        answer=answer,
        entropy=entropy,
        agreement=0.75,
        confidence=0.25,
        justified=True,
        adapter="r0001-abc",
        neighbours=(("e1", 0.5), ("e2", -0.25)),
        candidates=(CandidateAnswer("greedy", "text", answer, entropy),),
        prompt_tokens=3,
        generated_tokens=4,
    )
    assert data.pseudo_label_from_json(json.loads(json.dumps(data.pseudo_label_to_json(label)))) == label


def test_the_question_of_a_conversation_is_its_last_user_turn() -> None:
    messages = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "x"}]
    query = data.query_from_json({"id": "q", "messages": [*messages, {"role": "user", "content": "last"}]})
    assert query.question == "last"
    assert query.messages is not None
    assert [message.content for message in query.messages] == ["first", "x", "last"]


def test_unknown_fields_are_kept_as_metadata_and_the_answer_is_not() -> None:
    row = {"id": "q", "question": "x", "customer": 7, "answer": "secret", "source": "s", "timestamp": 1.5}
    assert data.query_from_json(row).metadata == {"customer": 7}
    assert data.query_from_json({**row, "metadata": {"customer": 8}}).metadata == {"customer": 8}


def test_a_whole_number_as_id_or_answer_is_taken_as_text() -> None:
    example = data.example_from_json({"id": 7, "question": "x", "answer": 1})
    assert (example.id, example.answer) == ("7", "1")


def test_a_decimal_number_is_an_answer_and_an_option_and_no_id() -> None:
    row = {"id": "7", "question": "x", "answer": 0.125, "answers": [12.5], "options": [0.1, 1e-7]}
    example = data.example_from_json(row)
    assert (example.answers, example.query.options) == (("0.125", "12.5"), ("0.1", "1e-07"))
    for field in ({"id": 7.5}, {"options": [math.inf]}, {"answer": math.nan}, {"answer": True}):
        with pytest.raises(DataError, match=f"field '{next(iter(field))}': expected a string"):
            data.example_from_json({**row, **field})


def test_an_option_that_a_table_lost_is_the_word_that_tables_lose() -> None:
    assert data.query_from_json({"id": "q", "question": "x", "options": ["a", math.nan]}).options == ("a", "None")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "x"}, "field 'id': missing"),
        ({"id": " ", "question": "x"}, "field 'id': is empty"),
        ({"id": "x" * 513, "question": "x"}, "field 'id': has 513 characters"),
        ({"id": True, "question": "x"}, "field 'id': expected a string, found true or false"),
        ({"id": "q"}, "field 'question': missing"),
        ({"id": "q", "question": ["x"]}, "field 'question': expected a string, found a list"),
        ({"id": "q", "question": "a\x00b"}, "field 'question': contains a NUL"),
        ({"id": "q", "question": "a\ud800b"}, "field 'question': contains half of a surrogate pair"),
        ({"id": "q", "question": "x", "options": "a|b"}, "field 'options': expected a list of strings, found a string"),
        ({"id": "q", "question": "x", "options": ["a", None]}, "field 'options': expected a string, found null"),
        ({"id": "q", "messages": []}, "field 'messages': expected a non-empty list"),
        ({"id": "q", "messages": [{"role": "tool", "content": "x"}]}, r"field 'messages\[0\].role': must be one of"),
        ({"id": "q", "messages": ["x"]}, r"field 'messages\[0\].role': must be one of"),
        ({"id": "q", "messages": [{"role": "user"}]}, r"field 'messages\[0\].content': expected a string, found null"),
        ({"id": "q", "messages": [{"role": "assistant", "content": "x"}]}, "give 'messages' with a user turn"),
        ({"id": "q", "question": "x", "metadata": "y"}, "field 'metadata': expected an object, found a string"),
        ({"id": "q", "question": "x", "score": math.nan}, "field 'metadata': is not valid JSON"),
        ({"id": "q", "question": "x", "category": 1.5}, "field 'category': expected a string, found a decimal number"),
    ],
)
def test_a_faulty_record_is_refused_by_field(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.query_from_json(row)


def test_what_is_no_pseudo_label_is_refused() -> None:
    with pytest.raises(DataError, match=r"is not a pseudo-label .*'answer'.*write it with `semievol label`"):
        data.pseudo_label_from_json({"id": "q", "question": "x", "candidates": []})


# --- JSON lines -----------------------------------------------------------------------------------------------------


def test_examples_are_read_with_canonical_answers(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "labeled.jsonl", {"id": "1", "question": "days off?", "answer": "PTO_balance"})
    assert data.read_examples(path, CLOSED) == [Example(Query("1", "days off?"), "pto balance")]


def test_a_faulty_line_is_named_with_file_line_and_field(tmp_path: Path) -> None:
    good = {"id": "1", "question": "x", "answer": "taxes"}
    path = jsonl(tmp_path / "labeled.jsonl", good, {**good, "id": "2", "answer": "foo"})
    with pytest.raises(DataError) as caught:
        data.read_examples(path, CLOSED)
    assert str(caught.value) == (
        "labeled.jsonl:2: field 'answer': 'foo' is not one of the 2 labels; fix the spelling or add it to task.labels"
    )


def test_other_true_answers_are_kept_canonical_and_once(tmp_path: Path) -> None:
    row = {"id": "1", "question": "how many?", "answer": " three  yards", "answers": ["3", "three yards", " 3", 4]}
    (example,) = data.read_examples(jsonl(tmp_path / "drop.jsonl", row), Task(TaskConfig(form="short_answer")))
    assert (example.answer, example.alternatives) == ("three yards", ("3", "4"))
    assert example.answers == ("three yards", "3", "4")
    assert example.query.metadata == {}
    assert data.query_from_json(row).metadata == {}
    assert "answers" not in data.example_to_json(Example(Query("1", "x"), "y"))
    assert data.read_answers(tmp_path / "drop.jsonl") == {"1": (" three  yards", "3", "three yards", " 3", "4")}


def test_another_true_answer_that_is_none_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "l.jsonl", {"id": "1", "question": "x", "answer": "taxes", "answers": ["foo"]})
    with pytest.raises(DataError, match=r"l.jsonl:1: field 'answer': 'foo' is not one of the 2 labels"):
        data.read_examples(path, CLOSED)
    path = jsonl(tmp_path / "l.jsonl", {"id": "1", "question": "x", "answer": "taxes", "answers": "pto balance"})
    with pytest.raises(DataError, match=r"l.jsonl:1: field 'answers': expected a list of strings, found a string"):
        data.read_examples(path, CLOSED)


def test_an_id_used_twice_names_both_lines(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "q.jsonl", *({"id": i, "question": "x"} for i in (1, 2, 1)))
    with pytest.raises(DataError, match=r"q.jsonl:3: field 'id': '1' was already used on line 1; ids must be unique"):
        data.read_queries(path, OPEN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": 1, "question": "x"}\n{"id": 2,\n', "q.jsonl:2: is not valid JSON"),
        (b"\n\n[1]\n", "q.jsonl:3: expected a JSON object, found a list"),
        (b'{"id": 1, "question": "x"}\n{"id": "\xff"}\n', "q.jsonl:2: byte 9 is not valid UTF-8"),
        (b"[" * 100_000, "q.jsonl:1: is not valid JSON"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.read_queries(write(tmp_path / "q.jsonl", content), OPEN)


def test_blank_lines_and_a_byte_order_mark_are_no_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", b'\xef\xbb\xbf{"id": 1, "question": "x"}\n\n  \n{"id": 2, "question": "y"}')
    assert [query.id for query in data.read_queries(path, OPEN)] == ["1", "2"]


def test_the_answer_of_a_query_is_not_read(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "q.jsonl", {"id": 1, "question": "x", "answer": "truth"})
    assert data.read_queries(path, OPEN) == [Query("1", "x")]


def test_answers_are_read_by_id(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"id": 1, "answer": "A"}, {"id": 2, "answer": "B"})
    assert data.read_answers(path) == {"1": ("A",), "2": ("B",)}


def test_a_missing_file_and_an_unknown_type_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read .No such file"):
        data.read_queries(tmp_path / "none.jsonl", OPEN)
    with pytest.raises(DataError, match=r"unknown file type '.txt'; use .jsonl, .csv or .parquet"):
        data.read_queries(tmp_path / "none.txt", OPEN)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    data.write_jsonl(path, [{"id": 1}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        data.write_jsonl(path, [{"id": 2}, {"entropy": math.inf}])
    assert path.read_text() == '{"id": 1}\n'


# --- CSV ------------------------------------------------------------------------------------------------------------


def test_csv_options_are_a_json_list_or_separated_by_bars(tmp_path: Path) -> None:
    path = write(
        tmp_path / "q.csv",
        "id,question,options,answer,category,team\n"
        '1,"x, y",no | yes,b,,red\n'
        '2,"two\nlines","[""a|b"", ""c""]",A,law,\n',
    )
    assert data.read_examples(path, CHOICE) == [
        Example(Query("1", "x, y", ("no", "yes"), metadata={"team": "red"}), "B"),
        Example(Query("2", "two\nlines", ("a|b", "c"), category="law"), "A"),
    ]


def test_csv_answers_are_a_json_list_or_separated_by_bars(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", 'id,question,answer,answers\n1,x,a,b | c\n2,y,a,"[""b|c""]"\n3,z,a,\n')
    assert [example.alternatives for example in data.read_examples(path, OPEN)] == [("b", "c"), ("b|c",), ()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"question\nx\n", "q.csv:1: no column 'id'; found question"),
        (b"", "q.csv:1: no column 'id'; found no columns"),
        (b'id,question\n1,"a\nb"\n2,\n', "q.csv:4: field 'question': missing"),
        (b"id,question\n1,a,b\n", "q.csv:2: has more cells than the header"),
        (b"id,question,options\n1,a,[x\n", "q.csv:2: field 'options': is not valid JSON"),
        (b"id,question\n1,\xff\n", "q.csv:2: byte 3 is not valid UTF-8"),
        (b"id,question\n1," + b"x" * 200_000 + b"\n", "q.csv:2: is not valid CSV .field larger"),
        (b"id,question\n1,x\n1,y\n", "q.csv:3: field 'id': '1' was already used on line 2"),
    ],
)
def test_a_faulty_csv_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.read_queries(write(tmp_path / "q.csv", content), OPEN)


# --- Parquet --------------------------------------------------------------------------------------------------------


def test_parquet_is_read_with_null_cells_as_absent_fields(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"id": 1, "question": "x", "options": ["no", "yes"], "answer": "A", "score": math.nan},
        {"id": 2, "question": "y", "options": ["a", "b"], "answer": "b", "score": 0.5},
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "q.parquet")
    assert data.read_examples(tmp_path / "q.parquet", CHOICE) == [
        Example(Query("1", "x", ("no", "yes")), "A"),
        Example(Query("2", "y", ("a", "b"), metadata={"score": 0.5}), "B"),
    ]


def test_a_broken_parquet_file_is_a_data_error(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"q.parquet: is not valid Parquet"):
        data.read_queries(write(tmp_path / "q.parquet", b"PAR1 and nothing else"), OPEN)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'semievol\[parquet\]'"):
        data.read_queries(write(tmp_path / "q.parquet", b""), OPEN)
