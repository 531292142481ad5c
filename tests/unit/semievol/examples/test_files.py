import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from semievol.config.method import TaskConfig
from semievol.errors import ConfigError, DataError
from semievol.examples import files, records
from semievol.tasks.task import Task
from semievol.types import Example, Query

OPEN = Task(TaskConfig())
CLOSED = Task(TaskConfig(labels=("taxes", "pto balance")))
CHOICE = Task(TaskConfig(form="multiple_choice"))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


# --- JSON lines -----------------------------------------------------------------------------------------------------


def test_examples_are_read_with_canonical_answers(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "labeled.jsonl", {"id": "1", "question": "days off?", "answer": "PTO_balance"})
    assert files.read_examples(path, CLOSED) == [Example(Query("1", "days off?"), "pto balance")]


def test_a_faulty_line_is_named_with_file_line_and_field(tmp_path: Path) -> None:
    good = {"id": "1", "question": "x", "answer": "taxes"}
    path = jsonl(tmp_path / "labeled.jsonl", good, {**good, "id": "2", "answer": "foo"})
    with pytest.raises(DataError) as caught:
        files.read_examples(path, CLOSED)
    assert str(caught.value) == (
        "labeled.jsonl:2: field 'answer': 'foo' is not one of the 2 labels; fix the spelling or add it to task.labels"
    )


def test_other_true_answers_are_kept_canonical_and_once(tmp_path: Path) -> None:
    row = {"id": "1", "question": "how many?", "answer": " three  yards", "answers": ["3", "three yards", " 3", 4]}
    (example,) = files.read_examples(jsonl(tmp_path / "drop.jsonl", row), Task(TaskConfig(form="short_answer")))
    assert (example.answer, example.alternatives) == ("three yards", ("3", "4"))
    assert example.answers == ("three yards", "3", "4")
    assert example.query.metadata == {}
    assert records.query_from_json(row).metadata == {}
    assert "answers" not in records.example_to_json(Example(Query("1", "x"), "y"))
    assert files.read_answers(tmp_path / "drop.jsonl") == {"1": (" three  yards", "3", "three yards", " 3", "4")}


def test_another_true_answer_that_is_none_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "l.jsonl", {"id": "1", "question": "x", "answer": "taxes", "answers": ["foo"]})
    with pytest.raises(DataError, match=r"l.jsonl:1: field 'answer': 'foo' is not one of the 2 labels"):
        files.read_examples(path, CLOSED)
    path = jsonl(tmp_path / "l.jsonl", {"id": "1", "question": "x", "answer": "taxes", "answers": "pto balance"})
    with pytest.raises(DataError, match=r"l.jsonl:1: field 'answers': expected a list of strings, found a string"):
        files.read_examples(path, CLOSED)


def test_an_id_used_twice_names_both_lines(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "q.jsonl", *({"id": i, "question": "x"} for i in (1, 2, 1)))
    with pytest.raises(DataError, match=r"q.jsonl:3: field 'id': '1' was already used on line 1; ids must be unique"):
        files.read_queries(path, OPEN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": 1, "question": "x"}\n{"id": 2,\n', "q.jsonl:2: is not valid JSON"),
        (b"\n\n[1]\n", "q.jsonl: record 1: expected a JSON object, found a number"),
        (b'{"id": 1, "question": "x"}\n{"id": "\xff"}\n', "q.jsonl:2: byte 9 is not valid UTF-8"),
        (b"[" * 100_000, "q.jsonl:1: is not valid JSON"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        files.read_queries(write(tmp_path / "q.jsonl", content), OPEN)


def test_blank_lines_and_a_byte_order_mark_are_no_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", b'\xef\xbb\xbf{"id": 1, "question": "x"}\n\n  \n{"id": 2, "question": "y"}')
    assert [query.id for query in files.read_queries(path, OPEN)] == ["1", "2"]


def test_the_answer_of_a_query_is_not_read(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "q.jsonl", {"id": 1, "question": "x", "answer": "truth"})
    assert files.read_queries(path, OPEN) == [Query("1", "x")]


def test_answers_are_read_by_id(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"id": 1, "answer": "A"}, {"id": 2, "answer": "B"})
    assert files.read_answers(path) == {"1": ("A",), "2": ("B",)}


def test_a_missing_file_and_an_unknown_type_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read .No such file"):
        files.read_queries(tmp_path / "none.jsonl", OPEN)
    with pytest.raises(DataError, match=r"unknown file type '.txt'; use .jsonl, .json, .csv, .tsv or .parquet"):
        files.read_queries(tmp_path / "none.txt", OPEN)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    files.write_jsonl(path, [{"id": 1}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_jsonl(path, [{"id": 2}, {"entropy": math.inf}])
    assert path.read_text() == '{"id": 1}\n'


# --- CSV ------------------------------------------------------------------------------------------------------------


def test_csv_options_are_a_json_list_or_separated_by_bars(tmp_path: Path) -> None:
    path = write(
        tmp_path / "q.csv",
        "id,question,options,answer,category,team\n"
        '1,"x, y",no | yes,b,,red\n'
        '2,"two\nlines","[""a|b"", ""c""]",A,law,\n',
    )
    assert files.read_examples(path, CHOICE) == [
        Example(Query("1", "x, y", ("no", "yes"), metadata={"team": "red"}), "B"),
        Example(Query("2", "two\nlines", ("a|b", "c"), category="law"), "A"),
    ]


def test_csv_answers_are_a_json_list_or_separated_by_bars(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", 'id,question,answer,answers\n1,x,a,b | c\n2,y,a,"[""b|c""]"\n3,z,a,\n')
    assert [example.alternatives for example in files.read_examples(path, OPEN)] == [("b", "c"), ("b|c",), ()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "q.csv:1: found no columns"),
        (b" ; ;\n1,2\n", "q.csv:1: found no columns"),
        (b'id,question\n1,"a\nb"\n2,\n', "q.csv:4: field 'question': missing"),
        (b"id,question\n1,a,b\n", "q.csv:2: has more cells than the header"),
        (b"id,question,options\n1,a,[x\n", "q.csv:2: field 'options': is not valid JSON"),
        (b"id,question\n1,\xff\n", "q.csv:2: byte 3 is not valid UTF-8"),
        (
            b"id,question\n1," + b"x" * 200_000 + b"\n",
            "q.csv:2: has a cell of more than 131072 characters; save such texts as .jsonl",
        ),
        (b"id,question\n1,x\n1,y\n", "q.csv:3: field 'id': '1' was already used on line 2"),
    ],
)
def test_a_faulty_csv_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        files.read_queries(write(tmp_path / "q.csv", content), OPEN)


# --- Parquet --------------------------------------------------------------------------------------------------------


def test_parquet_is_read_with_null_cells_as_absent_fields(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"id": 1, "question": "x", "options": ["no", "yes"], "answer": "A", "score": math.nan},
        {"id": 2, "question": "y", "options": ["a", "b"], "answer": "b", "score": 0.5},
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "q.parquet")
    assert files.read_examples(tmp_path / "q.parquet", CHOICE) == [
        Example(Query("1", "x", ("no", "yes")), "A"),
        Example(Query("2", "y", ("a", "b"), metadata={"score": 0.5}), "B"),
    ]


def test_a_broken_parquet_file_is_a_data_error(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"q.parquet: is not valid Parquet"):
        files.read_queries(write(tmp_path / "q.parquet", b"PAR1 and nothing else"), OPEN)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'semievol\[parquet\]'"):
        files.read_queries(write(tmp_path / "q.parquet", b""), OPEN)
