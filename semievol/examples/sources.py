"""The bytes of a file as lines of text: compression, marks of byte order, encodings.

Owns what stands between a file and its lines, and how a place in it is named; not what a line means. Invariant: a byte
that is no text is an error that names file and line, and so is a file that is of another kind than its lines.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from semievol.errors import DataError

MARK = "\ufeff"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF32_MARKS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_KINDS = {
    b"PK\x03\x04": "a spreadsheet or another zip archive; save it as CSV (UTF-8), or unpack it",
    b"PAR1": "Parquet; name it .parquet",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it, or compress it by gzip",
    b"BZh": "compressed by bzip2; decompress it, or compress it by gzip",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet (.xls); save it as CSV (UTF-8)",
}
_GZIP = b"\x1f\x8b"
_MOST_LAYERS = 3


class Place(NamedTuple):
    """Where a record stands."""

    file: str
    number: int
    kind: Literal["line", "record", "row"] = "line"

    def __str__(self) -> str:
        return f"{self.file}:{self.number}" if self.kind == "line" else f"{self.file}: {self.kind} {self.number}"

    @property
    def within(self) -> str:
        """Without the file."""
        return f"{self.kind} {self.number}"


def kind_suffix(path: Path) -> str:
    """What the file's name says of its content, in lower case, without `.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes, decompressed where they are gzip's, also of gzip's, whatever the file is called.

    Raises:
        DataError: it cannot be read, or is broken.
    """
    try:
        with ExitStack() as stack:
            file: io.BufferedReader = stack.enter_context(path.open("rb"))
            layers = 0
            while file.peek(2).startswith(_GZIP):
                layers += 1
                if layers > _MOST_LAYERS:
                    raise DataError(f"{path.name}: is compressed more than {_MOST_LAYERS} times; decompress it")
                file = io.BufferedReader(stack.enter_context(gzip.open(file)))
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path.name}: is not valid gzip ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def text_lines(file: io.BufferedReader, name: str, *, any_end: bool = False) -> Iterator[tuple[int, str | DataError]]:
    """(number, text with its end) of each line, of UTF-8 or of UTF-16 with its mark; marks at the start are taken off.

    A line that is not UTF-8 is an error in its place.

    Args:
        file: the bytes.
        name: of the file, for errors.
        any_end: a lone carriage return ends a line as well.

    Raises:
        DataError: the file is of another kind.
    """
    start = file.peek(4)[:4]
    for magic, kind in _KINDS.items():
        if start.startswith(magic):
            raise DataError(f"{name}: is {kind}")
    if start.startswith(_UTF32_MARKS):
        raise DataError(f"{name}: is UTF-32; save the file as UTF-8")
    if start.startswith(_UTF16_MARKS):
        file = io.BufferedReader(io.BytesIO(_utf16(file.read(), name).encode()))
    elif b"\0" in start:
        raise DataError(f"{name}:1: has NUL bytes, as UTF-16 without its mark has; save the file as UTF-8")
    number = 0
    for whole in file:
        for raw in whole.splitlines(keepends=True) if any_end else (whole,):
            number += 1
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                yield number, DataError(f"byte {error.start + 1} is not valid UTF-8; save the file as UTF-8")
                continue
            yield number, text.removeprefix(MARK) if number == 1 else text


def _utf16(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-16")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: byte {error.start + 1} is not valid UTF-16; save the file as UTF-8") from None


def whole_lines(lines: Iterator[tuple[int, str | DataError]], name: str) -> Iterator[tuple[int, str]]:
    """The same lines, where one that cannot be read ends the reading.

    Raises:
        DataError: naming the line.
    """
    for number, text in lines:
        if isinstance(text, DataError):
            raise DataError(f"{name}:{number}: {text}")
        yield number, text
