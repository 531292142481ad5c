"""Files of records: reads JSON lines, JSON, CSV, TSV, Parquet and data sets of the hub, and writes JSON lines.

Owns which reader a file needs and what a whole file must keep (ids are unique); what its columns mean is
semievol.examples.forms, what a valid record is semievol.examples.records. Invariant: a file is read whole and valid, or
refused by a DataError that names file, line and field; nothing is skipped silently, and what was recognised is logged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from semievol.config.data import DataConfig
from semievol.durable_files import replaced
from semievol.errors import DataError
from semievol.examples.column_names import known_names
from semievol.examples.forms import Recogniser, Wanted
from semievol.examples.hub import HUB, hub_rows
from semievol.examples.json_files import json_rows
from semievol.examples.records import (
    KNOWN_FIELDS,
    Row,
    answers_of,
    example_from_json,
    pseudo_label_from_json,
    query_from_json,
    record_id,
)
from semievol.examples.sources import Place, kind_suffix, opened
from semievol.examples.tables import CsvTable, parquet_rows
from semievol.tasks.task import Task
from semievol.types import Example, PseudoLabel, Query

Record = TypeVar("Record")

OUR_NAMES = DataConfig()
"""Nothing is mapped: forms are recognised."""
READ_SUFFIXES = ".jsonl, .json, .csv, .tsv or .parquet, each also with .gz"

log = logging.getLogger(__name__)

# --- whole files ----------------------------------------------------------------------------------------------------


def read_examples(path: Path | str, task: Task, data: DataConfig = OUR_NAMES) -> list[Example]:
    """All examples of a file, checked and canonical, in file order.

    Raises:
        DataError: naming file, line and field of the first fault; ids must be unique.
    """
    source = OpenSource(path, data, "example", task.config.instruction)
    return _read(source, lambda row: example_from_json(row, task), lambda example: example.id)


def read_queries(path: Path | str, task: Task, data: DataConfig = OUR_NAMES) -> list[Query]:
    """All queries of a file, checked, in file order; an answer in it is ignored.

    Raises:
        DataError: naming file, line and field of the first fault; ids must be unique.
    """

    def build(row: Row) -> Query:
        query = query_from_json(row)
        task.check_query(query)
        return query

    return _read(OpenSource(path, data, "query", task.config.instruction), build, lambda query: query.id)


def read_answers(path: Path | str, data: DataConfig = OUR_NAMES) -> dict[str, tuple[str, ...]]:
    """The true answers by query id (`{"id", "answer", "answers"?}` rows), as they stand in the file.

    Raises:
        DataError: naming file, line and field of the first fault; ids must be unique.
    """

    def build(row: Row) -> tuple[str, tuple[str, ...]]:
        return record_id(row.get("id")), answers_of(row)

    return dict(_read(OpenSource(path, data, "answer"), build, lambda pair: pair[0]))


def read_pseudo_labels(path: Path | str) -> list[PseudoLabel]:
    """All pseudo-labels of a file that `semievol label` or a round wrote.

    Raises:
        DataError: naming file, line and field of the first fault; ids must be unique.
    """
    found = _Unique[PseudoLabel](Path(path).name, by_content=False)
    for place, row in rows_of(path):
        found.add(place, _built(place, row, pseudo_label_from_json), lambda label: label.query.id)
    return found.records


class OpenSource:
    """The records of one file in our own form, one after the other.

    Args:
        path: the file, or `hub:NAME`.
        data: what its columns mean, where it cannot be recognised.
        wanted: what is read.
        instruction: task.instruction.
    """

    def __init__(self, path: Path | str, data: DataConfig, wanted: Wanted, instruction: str | None = None) -> None:
        self.path = Path(path)
        self._wanted = wanted
        cells = kind_suffix(self.path) in (".csv", ".tsv")
        self._recogniser = Recogniser(data, wanted, instruction, cells=cells)
        self._dialect: list[str] = []
        self._data = data

    @property
    def name(self) -> str:
        return str(self.path) if is_hub(self.path) else self.path.name

    @property
    def said(self) -> str | None:
        """What was recognised, for people; None where there is nothing to say."""
        parts = [part for part in (self._recogniser.said, *self._dialect) if part is not None]
        return "; ".join(parts) or None

    @property
    def ids_by_content(self) -> bool:
        return self._recogniser.ids_by_content

    def __iter__(self) -> Iterator[tuple[Place, dict[str, Any] | DataError]]:
        """(place, record) of all; a record that is wrong by itself is an error in its place.

        Raises:
            DataError: the file cannot be read on, or its form cannot be told.
        """
        for place, row in rows_of(self.path, known_names(self._data), self._dialect):
            if isinstance(row, DataError):
                yield place, row
                continue
            try:
                record: dict[str, Any] | DataError = self._recogniser.record(row)
            except DataError as error:
                record = error
            yield place, record


def _read(source: OpenSource, build: Callable[[Row], Record], id_of: Callable[[Record], str]) -> list[Record]:
    found: _Unique[Record] | None = None
    for place, row in source:
        if found is None:
            found = _Unique(source.name, by_content=source.ids_by_content)
        found.add(place, _built(place, row, build), id_of)
    if source.said is not None:
        log.info("%s: %s", source.name, source.said)
    if found is None:
        return []
    if found.repeated:
        log.info("%s: %d records repeat an earlier one word for word, and count once", source.name, found.repeated)
    return found.records


@dataclass(slots=True)
class _Unique(Generic[Record]):
    """The records of one file, each id once.

    Where ids are made of the content, a record that repeats another is the same one; another answer to it is refused.
    """

    name: str
    by_content: bool
    records: list[Record] = field(default_factory=list)
    repeated: int = 0
    places: dict[str, tuple[Place, int]] = field(default_factory=dict)

    def add(self, place: Place, record: Record, id_of: Callable[[Record], str]) -> None:
        identity = id_of(record)
        if identity not in self.places:
            self.places[identity] = place, len(self.records)
            self.records.append(record)
            return
        before, index = self.places[identity]
        if not self.by_content:
            raise DataError(
                f"{place}: field 'id': {identity!r} was already used on {before.within}; ids must be unique"
            )
        if _answer_of(record) != _answer_of(self.records[index]):
            raise DataError(
                f"{place}: field 'answer': {_answer_of(record)!r}, and {_answer_of(self.records[index])!r} on "
                f"{before.within}, which asks the same; keep one of them, or give each an id"
            )
        self.repeated += 1


def _answer_of(record: object) -> object:
    if isinstance(record, Example):
        return record.answer
    return record[1] if isinstance(record, tuple) else None


def _built(place: Place, row: Row | DataError, build: Callable[[Row], Record]) -> Record:
    try:
        if isinstance(row, DataError):
            raise row
        return build(row)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None


# --- rows -----------------------------------------------------------------------------------------------------------


def is_hub(path: Path | str) -> bool:
    return str(path).startswith(HUB)


def rows_of(
    path: Path | str, known: Iterable[str] = KNOWN_FIELDS, said: list[str] | None = None
) -> Iterator[tuple[Place, Row | DataError]]:
    """(place, fields) of every record of a file, as they stand there; one that is no record is an error in its place.

    Args:
        path: the file, or `hub:NAME`.
        known: columns that mean something, which tell a table's separator, and a record from what holds records.
        said: is told how the file is written, where that is not the usual way.

    Raises:
        DataError: the file cannot be read, or not on.
    """
    if is_hub(path):
        yield from hub_rows(str(path))
        return
    path = Path(path)
    suffix = kind_suffix(path)
    if suffix not in (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"):
        raise DataError(f"{path}: unknown file type {suffix!r}; use {READ_SUFFIXES}")
    with opened(path) as file:
        if suffix == ".parquet":
            yield from parquet_rows(file, path.name)
        elif suffix in (".csv", ".tsv"):
            table = CsvTable(file, path.name, tabs=suffix == ".tsv", known=frozenset(known))
            for found in table:
                if said is not None and table.said:
                    said.extend(table.said)
                    table.said.clear()
                yield found
        else:
            yield from json_rows(file, path.name, frozenset(known))


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with replaced(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
