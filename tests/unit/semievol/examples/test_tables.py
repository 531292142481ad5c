"""Tables that are broken, or not what they seem, are named by file, line and field."""

import gzip
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from semievol.config.data import DataConfig
from semievol.config.method import TaskConfig
from semievol.errors import DataError
from semievol.examples import files
from semievol.examples.files import rows_of
from semievol.tasks.task import Task

OPEN = Task(TaskConfig())
OURS = DataConfig()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'id,question\n1,"red 5"" pipe\n2,green 3\n3,blue 4\n',
            "q.csv:2: a quotation mark opens a cell here and is never",
        ),
        (b'id,question\n1,a\n2,"b\nc"\n3,"d\n4,e\n', "q.csv:5: a quotation mark opens a cell here and is never closed"),
        (b'id,question,more\n1,"a\nb","c\nd\n', "q.csv:3: a quotation mark opens a cell here and is never closed"),
        (b'id,question\n1,"red 5" pipe\n2,x\n', "q.csv:2: a quotation mark opens a cell here, and behind the next one"),
        (
            b'id,question\n1,"red 5 pipe\n2,green\n3,"blue, x"\n',
            "q.csv:2: a quotation mark opens a cell here, and behind the next one, on line 4, there is more text",
        ),
        (
            b'id,question\n1,"red\n' + b"2,green green green\n" * 10_000,
            "q.csv:2: a quotation mark opens a cell here that has no end in 131072 characters",
        ),
        (b"id,question\n1\n", r"q.csv:2: has fewer cells than the header .1, not 2.; field 'question': missing"),
        (b"id,question\n1,a,b\n", r"q.csv:2: has more cells than the header .3, not 2.; quote cells that hold commas"),
        (b"id;question\n1;a;b\n", "quote cells that hold semicolons"),
        (b"id,question,question\n1,a,b\n", "q.csv:1: the column 'question' is there twice"),
        (b"id, question ,question\n1,a,b\n", "q.csv:1: the column 'question' is there twice"),
        (
            b"question;label,text;answer,id\n",
            "q.csv:1: the header can be separated by commas or semicolons",
        ),
        (
            b"utterance,intent\nx,y\n",
            "q.csv:2: field 'question': missing; the columns are utterance, intent; say which",
        ),
        (b"id,question\n1,a\x00b\n", "q.csv:2: field 'question': contains a NUL"),
        (b"i\x00d\x00,\x00q\x00", "q.csv:1: has NUL bytes, as UTF-16 without its mark has; save the file as UTF-8"),
        (b"\xff\xfei", "q.csv: byte 3 is not valid UTF-16"),
        (b"PK\x03\x04\x14\x00", "q.csv: is a spreadsheet or another zip archive; save it as CSV"),
        (b"PAR1....", "q.csv: is Parquet; name it .parquet"),
        (b"\x1f\x8b\x08\x00broken", "q.csv: is not valid gzip"),
        (b"id,question\n1,caf\xe9\n", "q.csv:2: byte 6 is not valid UTF-8; save the file as UTF-8"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "q.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        files.read_queries(path, OPEN)


def test_quotes_that_are_right_are_read(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_bytes(b'id,question\n1,"red 5"" pipe"\n2,5" pipe\n3,"a ""b"", c\r\nd"\n4,""""\n')
    assert [query.question for query in files.read_queries(path, OPEN)] == [
        'red 5" pipe',
        '5" pipe',
        'a "b", c\r\nd',
        '"',
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"id": 1, "question": "x"},\n{"id": 2}]', "q.json: record 2: field 'question': missing"),
        (b'[{"id": 1, "question": "x"},\n{"id": ]', "q.json:2: is not valid JSON .*, record 2"),
        (b'[{"id": 1, "question": "x"}\n{"id": 2}]', "q.json:2: is not valid JSON: a comma is missing behind record 1"),
        (b'[{"id": 1, "question": "x"}', "q.json: is not valid JSON: the array has no end"),
        (b'[{"id": 1, "question": "x"}] []', "q.json: is not valid JSON: there is more behind the array"),
        (b'[{"id": 1, "question": "x"}, {"id": 1, "question": "y"}]', "q.json: record 2: .*already used on record 1"),
    ],
)
def test_what_is_wrong_with_an_array_is_named_by_record(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "q.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        files.read_queries(path, OPEN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "x", "text": "y"}\n', r"q.json:1: is not valid JSON .the name 'text' is there twice in one object"),
        (
            b'[{"id": 1, "id": 2, "question": "x"}]',
            r"q.json:1: .*the name 'id' is there twice .*, record 1",
        ),
        (
            b'{"train": [{"text": "x"}], "test": [{"text": "y"}]}',
            "q.json: holds records under 'train' and 'test'",
        ),
        (b'{"data": [{"text": "x"}, 7]}', "q.json: record 2: expected a JSON object, found a number"),
        (b'{"data": []}', "q.json:1: field 'question': missing"),
        (b'{\n "question": "x"\n}\n{\n "question": 1.5.2\n}', "q.json:1: is not valid JSON"),
        (
            b'{\n "question": "x"\n}\n{\n "n": 7\n}',
            "q.json:4: field 'question': missing, and the first record has one; here the columns are n",
        ),
    ],
)
def test_what_is_wrong_with_a_document_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "q.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        files.read_queries(path, OPEN)


def test_a_broken_first_line_hides_none_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"question": \n{"question": "x"}\n\n\xff\n{"question": "y"}\n')
    found = [(str(place), isinstance(record, DataError)) for place, record in files.OpenSource(path, OURS, "query")]
    assert found == [("q.jsonl:1", True), ("q.jsonl:2", False), ("q.jsonl:4", True), ("q.jsonl:5", False)]


def test_a_file_that_is_packed_again_and_again_is_refused(tmp_path: Path) -> None:
    content = b'{"question": "x"}'
    for _ in range(4):
        content = gzip.compress(content)
    (tmp_path / "q.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"q.jsonl.gz: is compressed more than 3 times"):
        files.read_queries(tmp_path / "q.jsonl.gz", OPEN)


def test_cells_of_parquet_that_json_has_not_are_texts(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    cells = {
        "question": [b"how much", b"\xff"],
        "answer": [Decimal("1.50"), Decimal("2")],
        "day": [date(2026, 1, 31)] * 2,
    }
    parquet.write_table(pa.table(cells), tmp_path / "a.parquet")
    (_, first), (_, second) = rows_of(tmp_path / "a.parquet")
    assert first == {"question": "how much", "answer": "1.50", "day": "2026-01-31"}
    assert isinstance(second, dict)
    assert second["question"] == b"\xff"  # no text: whoever reads the record refuses it


def test_a_column_that_is_in_parquet_twice_is_refused_as_in_a_table(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.table([pa.array(["a"]), pa.array(["x"]), pa.array(["y"])], names=["question", "answer", "answer"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: the column 'answer' is there twice"):
        list(rows_of(tmp_path / "a.parquet"))


def test_utf_32_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"question": "x"}'.encode("utf-32"))
    with pytest.raises(DataError, match=r"a\.jsonl: is UTF-32; save the file as UTF-8"):
        list(rows_of(tmp_path / "a.jsonl"))
