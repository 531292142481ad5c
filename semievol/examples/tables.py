"""Rows of tables: CSV with any of the usual separators, TSV, and Parquet.

Owns the dialect of a table, which its header line tells, and the shape of its rows; not what a column means. Invariant:
every row has the header's cells, or is named with its line; a quote that is never closed swallows no row in silence.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from io import BufferedReader
from typing import Any

from semievol.errors import ConfigError, DataError
from semievol.examples.column_names import folded
from semievol.examples.records import Row
from semievol.examples.sources import MARK, Place, text_lines, whole_lines

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_QUOTES = "a quotation mark within a cell is written twice, and the cell enclosed in quotation marks"


class CsvTable:
    """One table of text. Iterate over it once.

    Args:
        file: its bytes.
        name: of the file, for errors.
        tabs: the file's name says that tabs separate cells.
        known: names of columns that mean something; they tell which of two separators it is.
    """

    def __init__(self, file: BufferedReader, name: str, *, tabs: bool, known: Collection[str]) -> None:
        self._name = name
        self._usual = "\t" if tabs else ","
        self._known = frozenset(map(folded, known))
        self._lines = whole_lines(text_lines(file, name, any_end=True), name)
        self._record: list[tuple[int, str]] = []  # the lines of the record that is being read
        self._separator = self._usual
        self.said: list[str] = []
        """What was found of the dialect that is not the usual one, for people."""

    def __iter__(self) -> Iterator[tuple[Place, Row | DataError]]:
        """(place, cells by column) of every row; a row with too many or too few cells is an error in its place.

        Raises:
            DataError: from here on nothing can be read.
        """
        header = self._header_line()
        if header is None:
            raise DataError(f"{self._name}:1: found no columns; the first line names them")
        self._separator = self._chosen(header[1])
        padded = any(cell.startswith(" ") for cell in _cells(header[1], self._separator)[1:])
        if self._separator != self._usual:
            self.said.append(f"separated by {SEPARATORS[self._separator]}")
        rows = csv.reader(self._fed(header), delimiter=self._separator, strict=True, skipinitialspace=padded)
        columns = self._columns(self._next(rows) or [], header[0])
        while (cells := self._next(rows)) is not None:
            if not any(cell.strip() for cell in cells):  # also a row of separators alone, as spreadsheets leave behind
                continue
            yield Place(self._name, self._record[0][0]), self._row(columns, cells)

    def _header_line(self) -> tuple[int, str] | None:
        for number, text in self._lines:
            stripped = text.rstrip("\r\n")
            if number == 1 and stripped.startswith("sep=") and len(stripped) == 5:  # a spreadsheet's own hint
                self._usual = stripped[4]
            elif stripped.strip():
                return number, text
        return None

    def _chosen(self, header: str) -> str:
        outside = "".join(header.split('"')[::2])
        found = [each for each in dict.fromkeys([self._usual, *SEPARATORS]) if each in outside]
        if len(found) < 2:
            return found[0] if found else self._usual
        hits = {each: sum(folded(cell) in self._known for cell in _cells(header, each)) for each in found}
        best = [each for each in found if hits[each] == max(hits.values())]
        if len(best) > 1:
            readings = " or ".join(SEPARATORS.get(each, repr(each)) for each in best)
            raise DataError(
                f"{self._name}:1: the header can be separated by {readings}; keep one of them, or enclose the names in "
                "quotation marks"
            )
        return best[0]

    def _columns(self, cells: Sequence[str], line: int) -> list[str]:
        names = [_plain(cell) for cell in cells]
        while names and not names[-1]:
            names.pop()
        if "" in names:
            self.said.append(f"column {names.index('') + 1}, which has no name, left out")
        for name in names:
            if name and names.count(name) > 1:
                raise DataError(f"{self._name}:{line}: the column {name!r} is there twice; rename or remove one")
        if not any(names):
            raise DataError(f"{self._name}:{line}: found no columns; the first line names them")
        return names

    def _row(self, columns: Sequence[str], cells: Sequence[str]) -> Row | DataError:
        """Empty cells are absent fields."""
        if any(cell.strip() for cell in cells[len(columns) :]):
            separated = SEPARATORS.get(self._separator, repr(self._separator))
            return DataError(
                f"has more cells than the header ({len(cells)}, not {len(columns)}); quote cells that hold {separated}"
            )
        if len(cells) < len(columns):
            return DataError(
                f"has fewer cells than the header ({len(cells)}, not {len(columns)}); field {columns[len(cells)]!r}: "
                "missing"
            )
        return {name: cell for name, cell in zip(columns, cells, strict=False) if name and cell}

    # --- reading ----------------------------------------------------------------------------------------------------

    def _fed(self, header: tuple[int, str]) -> Iterator[str]:
        self._record.append(header)
        yield header[1]
        for each in self._lines:
            self._record.append(each)
            yield each[1]

    def _next(self, rows: Iterator[list[str]]) -> list[str] | None:
        """The next record, and its lines in `_record`; None at the end."""
        self._record.clear()
        try:
            return next(rows, None)
        except csv.Error as error:
            raise DataError(self._explained(str(error))) from None

    def _explained(self, error: str) -> str:
        opened = _open_quote(self._record, self._separator)
        last = self._record[-1][0] if self._record else 1
        if "field larger" in error:
            limit = csv.field_size_limit()
            if opened is None or opened == last:
                return f"{self._name}:{last}: has a cell of more than {limit} characters; save such texts as .jsonl"
            return f"{self._name}:{opened}: a quotation mark opens a cell here that has no end in {limit} characters"
        if opened is None:
            return f"{self._name}:{last}: is not valid CSV ({error})"
        if "end of data" in error:
            return f"{self._name}:{opened}: a quotation mark opens a cell here and is never closed; {_QUOTES}"
        if "expected after" in error:
            return (
                f"{self._name}:{opened}: a quotation mark opens a cell here, and behind the next one, on line {last}, "
                f"there is more text; {_QUOTES}"
            )
        return f"{self._name}:{opened}: is not valid CSV ({error})"


def _open_quote(record: Sequence[tuple[int, str]], separator: str) -> int | None:
    """The line on which the last cell in quotation marks of a record begins; None: it has none."""
    opened, quoted, fresh = None, False, True
    for line, text in record:
        for character in text:
            if character == '"' and (quoted or fresh):
                opened = opened if quoted else line
                quoted = not quoted
                fresh = quoted is False and fresh  # a mark right behind one that closed opens again: it was doubled
            elif not quoted:
                fresh = character == separator or (fresh and character == " ")
        fresh = fresh and not quoted
    return opened


def _cells(line: str, separator: str) -> list[str]:
    """The cells of a header line; without the rules of quotes that a whole table keeps."""
    return next(csv.reader([line], delimiter=separator), [])


def _plain(name: str) -> str:
    return name.replace(MARK, "").strip()


def parquet_rows(file: BufferedReader, name: str) -> Iterator[tuple[Place, Row]]:
    """(place, cells by column) of every row; numbers that the file itself names (a ClassLabel) become those names.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: it is not Parquet.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ConfigError(
            f"{name}: reading Parquet needs pyarrow; install it with: pip install 'semievol[parquet]'"
        ) from None
    try:
        table = parquet.ParquetFile(file)
        columns = table.schema_arrow.names
        if twice := [column for column in columns if columns.count(column) > 1]:
            raise DataError(f"{name}: the column {twice[0]!r} is there twice; rename or remove one")
        names = _class_names(table.schema_arrow.metadata or {})
        number = 0
        for batch in table.iter_batches():
            for cells in batch.to_pylist():
                number += 1
                yield Place(name, number, "row"), _parquet_row(cells, names)
    except ArrowException as error:
        raise DataError(f"{name}: is not valid Parquet ({error})") from None


def _parquet_row(cells: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> Row:
    """Null and NaN cells are absent fields; what JSON has not (dates, decimals, bytes of UTF-8) becomes text."""
    row: dict[str, Any] = {}
    for name, cell in cells.items():
        if cell is None or (isinstance(cell, float) and math.isnan(cell)):
            continue
        if name in names and isinstance(cell, int):
            if not 0 <= cell < len(names[name]):  # -1: the row has no label
                continue
            cell = names[name][cell]
        row[name] = cell if isinstance(cell, (str, int, float, bool, list, dict)) else _as_text(cell)
    return row


def _as_text(cell: Any) -> Any:
    """Older writers of Parquet keep texts as bytes; bytes that are no text are left for the record to refuse."""
    if not isinstance(cell, bytes):
        return str(cell)
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return cell


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, Sequence[str]]:
    """The names of numbers, by column, as Hugging Face's `datasets` writes them beside the schema."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
