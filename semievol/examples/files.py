"""Files of records: reads .jsonl, .csv and .parquet, writes .jsonl.

Owns the formats of files; what a record is, is semievol.examples.records. Invariant: a file is read whole and valid, or
refused by a DataError that names file, line and field; nothing is skipped silently.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from semievol.durable_files import replaced
from semievol.errors import ConfigError, DataError
from semievol.examples.records import (
    KNOWN_FIELDS,
    Row,
    answers_of,
    example_from_json,
    kind_of,
    pseudo_label_from_json,
    query_from_json,
    record_id,
)
from semievol.tasks.task import Task
from semievol.types import Example, PseudoLabel, Query

Record = TypeVar("Record")


def read_examples(path: Path | str, task: Task) -> list[Example]:
    """All examples of a file, checked and canonical, in file order.

    Raises:
        DataError: naming file, line and field of the first fault; ids must be unique.
    """
    return _read(Path(path), lambda row: example_from_json(row, task), lambda example: example.id)


def read_queries(path: Path | str, task: Task) -> list[Query]:
    """All queries of a file, checked, in file order; an `answer` field is ignored.

    Raises:
        DataError: naming file, line and field of the first fault; ids must be unique.
    """

    def build(row: Row) -> Query:
        query = query_from_json(row)
        task.check_query(query)
        return query

    return _read(Path(path), build, lambda query: query.id)


def read_answers(path: Path | str) -> dict[str, tuple[str, ...]]:
    """The true answers by query id (`{"id", "answer", "answers"?}` rows), as they stand in the file.

    Raises:
        DataError: naming file, line and field of the first fault; ids must be unique.
    """
    return dict(_read(Path(path), lambda row: (record_id(row.get("id")), answers_of(row)), lambda pair: pair[0]))


def read_pseudo_labels(path: Path | str) -> list[PseudoLabel]:
    """All pseudo-labels of a file that `semievol label` or a round wrote.

    Raises:
        DataError: naming file, line and field of the first fault; ids must be unique.
    """
    return _read(Path(path), pseudo_label_from_json, lambda label: label.query.id)


def _read(path: Path, build: Callable[[Row], Record], id_of: Callable[[Record], str]) -> list[Record]:
    readers = {".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown file type {path.suffix!r}; use .jsonl, .csv or .parquet")
    records: list[Record] = []
    lines: dict[str, int] = {}
    try:
        for line, row in reader(path):
            try:
                record = build(row)
            except DataError as error:
                raise DataError(f"{path.name}:{line}: {error}") from None
            identity = id_of(record)
            if identity in lines:
                raise DataError(
                    f"{path.name}:{line}: field 'id': {identity!r} was already used on line {lines[identity]}; "
                    "ids must be unique"
                )
            lines[identity] = line
            records.append(record)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    return records


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            try:
                yield line, raw.decode("utf-8-sig" if line == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path.name}:{line}: byte {error.start + 1} is not valid UTF-8; save the file as UTF-8"
                ) from None


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Row]]:
    for line, text in _text_lines(path):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path.name}:{line}: is not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path.name}:{line}: expected a JSON object, found {kind_of(row)}")
        yield line, row


def _csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(text for _, text in _text_lines(path))
    line = 1
    try:
        columns = reader.fieldnames or ()
        if "id" not in columns:
            raise DataError(f"{path.name}:1: no column 'id'; found {', '.join(columns) or 'no columns'}")
        line = reader.line_num + 1
        for cells in reader:
            if None in cells:
                raise DataError(f"{path.name}:{line}: has more cells than the header; quote cells that hold commas")
            yield line, _csv_row(cells, f"{path.name}:{line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path.name}:{line}: is not valid CSV ({error})") from None


def _csv_row(cells: Mapping[str, str | None], where: str) -> Row:
    """Empty cells are absent fields.

    `options` and `answers` are JSON lists or `|`-separated, `messages` and `metadata` are JSON.
    """
    row: dict[str, Any] = {name: cell for name, cell in cells.items() if cell}
    for name in ("options", "answers", "messages", "metadata"):
        cell = row.get(name)
        if cell is None:
            continue
        if name in ("options", "answers") and not cell.lstrip().startswith("["):
            row[name] = [each.strip() for each in cell.split("|")]
            continue
        try:
            row[name] = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: field {name!r}: is not valid JSON ({error})") from None
    return row


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ConfigError(
            f"{path.name}: reading Parquet needs pyarrow; install it with: pip install 'semievol[parquet]'"
        ) from None
    try:
        with path.open("rb") as file:
            number = 0
            for batch in parquet.ParquetFile(file).iter_batches():
                for cells in batch.to_pylist():
                    number += 1
                    yield number, _parquet_row(cells)
    except ArrowException as error:
        raise DataError(f"{path.name}: is not valid Parquet ({error})") from None


def _parquet_row(cells: Mapping[str, Any]) -> Row:
    """Null and NaN cells are absent fields; dates and the like in unknown columns become text."""
    row: dict[str, Any] = {}
    for name, cell in cells.items():
        if cell is None or (isinstance(cell, float) and math.isnan(cell)):
            continue
        known = name in KNOWN_FIELDS or isinstance(cell, (str, int, float, bool, list, dict))
        row[name] = cell if known else str(cell)
    return row


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with replaced(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
