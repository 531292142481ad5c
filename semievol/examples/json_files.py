"""JSON as people write it: an object a line, one array, whole documents, records below a name of their own.

Owns the shapes in which objects stand in a text, and how each is named; not what an object means. Invariant: an object
is read whole, each of its names once, or is an error in its place.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from io import BufferedReader
from typing import Any

from semievol.errors import DataError
from semievol.examples.column_names import folded
from semievol.examples.records import KNOWN_FIELDS, Row, kind_of
from semievol.examples.sources import MARK, Place, text_lines, whole_lines

Line = tuple[int, str | DataError]
RECORDS = "records"
"""Under this name the admin API takes what a file has as an array."""
_OF_A_WHOLE_FILE = {"schema_version", "timestamp", "source", "category", "metadata"}
"""What may be said of a whole file as well as of a record in it."""


def json_rows(
    file: BufferedReader, name: str, known: Collection[str] = KNOWN_FIELDS
) -> Iterator[tuple[Place, Row | DataError]]:
    """The objects of JSON lines, of one JSON array, or of documents of several lines, whatever the file is called.

    Args:
        file: the bytes.
        name: of the file, for errors.
        known: names that mean something in a record; an object that has none of them may hold the records.

    Raises:
        DataError: the file cannot be read, or not on.
    """
    lines: Iterator[Line] = (
        (number, text) for number, text in text_lines(file, name) if isinstance(text, DataError) or text.strip()
    )
    first = next(lines, None)
    if first is None:
        return
    number, text = first
    if isinstance(text, DataError):
        yield Place(name, number), text
    elif text.lstrip().startswith("["):
        rest = "\n" * (number - 1) + text + "".join(more for _, more in whole_lines(lines, name))
        yield from _array_rows(rest, name)
        return
    else:
        found: Row | DataError = json_object(text)
        if isinstance(found, DataError):
            rest_of: Sequence[Line] = list(lines)  # the rest tells a broken line from a document of several lines
            if (documents := _documents(first, rest_of, name)) is not None:
                yield from _unpacked(documents, name, known)
                return
            lines = iter(rest_of)
        following = next(lines, None)
        if following is None:
            yield from _unpacked([(Place(name, number), found)], name, known)
            return
        yield Place(name, number), found
        yield _row_of(name, *following)
    for line in lines:
        yield _row_of(name, *line)


def json_object(text: str) -> Row | DataError:
    """One object, or what is wrong with it; a mark of byte order before it is passed over."""
    try:
        row = json.loads(text.removeprefix(MARK), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        return DataError(f"is not valid JSON ({error})")
    return row if isinstance(row, dict) else DataError(f"expected a JSON object, found {kind_of(row)}")


def json_document(body: bytes) -> Any:
    """Whatever one JSON text holds.

    Raises:
        ValueError: it is none, or an object has a name twice.
        RecursionError: it is nested too deep.
    """
    return json.loads(body, object_pairs_hook=_once)


def below(document: Row, known: Collection[str] = KNOWN_FIELDS) -> str | None:
    """The name under which an object, which is no record itself, holds records; None: it holds none.

    Raises:
        DataError: it holds records under several.
    """
    if isinstance(document.get(RECORDS), list):
        return RECORDS
    names = set(map(folded, known)) - _OF_A_WHOLE_FILE

    def asks(value: Any) -> bool:
        return isinstance(value, dict) and any(folded(name) in names for name in value)

    if asks(document):
        return None
    found = [name for name, value in document.items() if isinstance(value, list) and value and asks(value[0])]
    if len(found) > 1:
        raise DataError(f"holds records under {' and '.join(map(repr, found))}; give one of them alone")
    return found[0] if found else None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of two values of one name, JSON itself would keep the last in silence."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} is there twice in one object")
    return found


def _row_of(name: str, number: int, text: str | DataError) -> tuple[Place, Row | DataError]:
    return Place(name, number), text if isinstance(text, DataError) else json_object(text)


def _unpacked(
    rows: Sequence[tuple[Place, Row | DataError]], name: str, known: Collection[str]
) -> Iterator[tuple[Place, Row | DataError]]:
    """The rows, or where there is but one that holds records, these."""
    inner = None
    if len(rows) == 1 and isinstance(rows[0][1], dict):
        try:
            inner = below(rows[0][1], known)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    if inner is None:
        yield from rows
        return
    for number, row in enumerate(rows[0][1][inner], start=1):  # type: ignore[index]
        yield Place(name, number, "record"), _object(row)


def _object(row: Any) -> Row | DataError:
    return row if isinstance(row, dict) else DataError(f"expected a JSON object, found {kind_of(row)}")


def _documents(
    first: tuple[int, str | DataError], rest: Iterable[Line], name: str
) -> list[tuple[Place, Row | DataError]] | None:
    """The objects that stand one behind the other over several lines; None: there is a text that is none."""
    lines = dict([first, *rest])
    if any(isinstance(text, DataError) for text in lines.values()):
        return None
    start = min(lines)
    text = "".join(f"{lines.get(number, '')}" or "\n" for number in range(start, max(lines) + 1))
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    position, found = 0, list[tuple[Place, Row | DataError]]()
    while (position := _skipped(text, position)) < len(text):
        try:
            row, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return None
        found.append((Place(name, start + text.count("\n", 0, position)), _object(row)))
        position = end
    return found


def _skipped(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _array_rows(text: str, name: str) -> Iterator[tuple[Place, Row | DataError]]:
    """Each element in its turn, so that an error names it."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    position, number = _skipped(text, text.index("[") + 1), 0
    while position < len(text) and text[position] != "]":
        number += 1
        place = Place(name, number, "record")
        try:
            row, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, position) + 1
            raise DataError(f"{name}:{line}: is not valid JSON ({error}), record {number}") from None
        yield place, _object(row)
        position = _skipped(text, end)
        if position < len(text) and text[position] == ",":
            position = _skipped(text, position + 1)
        elif position < len(text) and text[position] != "]":
            line = text.count("\n", 0, position) + 1
            raise DataError(f"{name}:{line}: is not valid JSON: a comma is missing behind record {number}")
    if position >= len(text) or text[_skipped(text, position + 1) :].strip():
        end_of = "the array has no end" if position >= len(text) else "there is more behind the array"
        raise DataError(f"{name}: is not valid JSON: {end_of}")
