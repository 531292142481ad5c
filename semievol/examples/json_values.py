"""Values that every store takes alike: JSON text, SQLite, PostgreSQL, Qdrant and Kafka.

Owns the one rule of all entries (topics, files, admin API, gateway, feedback) and its two sides: what comes is refused
with the field's path and the fix, what an older version has kept is mended. No I/O. The rule: numbers are finite, and
whole ones have 64 bits; texts hold neither NUL nor half of a surrogate pair; at most MAX_DEPTH objects and lists stand
in one another, and at most MAX_VALUES values in a record; keys are texts, and of equal keys the last counts. Texts are
never normalised: two ids are one where all their code points are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from semievol.plain_lines import is_whole, whole

MAX_INTEGER = 2**63 - 1
MAX_DEPTH = 32
"""Far below what the parsers take (200 and less), because stores put a record into objects of their own."""
MAX_VALUES = 10_000
MAX_ID_CHARS = 512
MAX_TIME_S = 253_402_300_799
"""The last second of the year 9999."""
MIN_TIME_S = -62_135_596_800
"""The first second of the year 1."""

DEEP = f"more than {MAX_DEPTH} objects and lists stand in one another; flatten it"
_MANY = f"there are more than {MAX_VALUES:,} values in one record; leave some out, or send them as one text"
_NOT_FINITE = "is no finite number (NaN, infinite, or beyond 1.7e308); send a smaller number, a text or null"
_TOO_LONG = "is a whole number beyond 64 bits; send it as a text, in quotation marks"
_NUL = "contains a NUL character (\\u0000), which databases refuse; remove it"
_HALF = "contains half of a surrogate pair, which is no valid text; send the whole character"

# Line breaks of Unicode count: an id stands in lines of logs, tables and headers.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LEAST, _MOST = -(2.0**53), 2.0**53
_SHOWN_CHARS = 40


class Fault(NamedTuple):
    """The first thing in a value that some store refuses; `field` is its path, empty for the whole."""

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field or 'record'}: {self.problem}"


# --- what comes -----------------------------------------------------------------------------------------------------


def fault_of(value: object, field: str = "") -> Fault | None:
    """The first fault of a parsed value, whatever it is; None: every store takes it."""
    if type(value) is dict and len(value) < MAX_VALUES and _is_plain_object(value):
        return None
    return _Look().fault(value, field, 0)


def fault_of_json(text: bytes) -> Fault | None:
    """The first fault of a JSON text, whatever makes the usual parsers refuse it; also None where it is no JSON."""
    try:
        value = json.loads(text, parse_int=_whole_number)
    except RecursionError:
        return Fault("", DEEP)
    except ValueError:
        return None
    return fault_of(value)


def depth_fault(value: object) -> Fault | None:
    """As `fault_of`, of the depth alone: for rows of tables, whose cells may be what JSON has not."""
    return Fault("", DEEP) if _is_deep(value, 0) else None


def number_fault(value: object) -> Fault | None:
    """As `fault_of`, of the numbers alone: for requests that go on to an engine, which has limits of its own."""
    if _numbers_fit(value):  # where each stands is only worth knowing of one that does not
        return None
    for field, each in _parts(value, ""):
        if (type(each) is int or type(each) is float) and (fault := fault_of(each, field)) is not None:
            return fault
    return None


def text_problem(text: str) -> str | None:
    """Why some store refuses a text."""
    if "\0" in text:
        return _NUL
    return None if is_whole(text) else _HALF


def id_problem(identity: str) -> str | None:
    """Why a text is no id, which has 1 to 512 characters and none that controls a terminal or ends a line."""
    if 0 < len(identity) <= MAX_ID_CHARS and identity.isascii() and identity.isprintable():
        return None
    if not identity:
        return "is empty; give every record an id of its own"
    if len(identity) > MAX_ID_CHARS:
        return f"has {len(identity)} characters, more than {MAX_ID_CHARS}; shorten it"
    if (problem := text_problem(identity)) is not None:
        return problem
    if (found := _CONTROL.search(identity)) is not None:
        code = f"U+{ord(found.group()):04X}"
        return f"contains the control character {code} at character {found.start() + 1}; remove it"
    return None


def timestamp_problem(value: object) -> str | None:
    """Why a value is no time of a record: UTC seconds since the epoch, or a text (ISO 8601)."""
    if value is None or isinstance(value, str):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "is no time; send seconds since 1970, or a text such as 2026-01-31T12:00:00Z"
    if MIN_TIME_S <= value <= MAX_TIME_S:
        return None
    for unit, in_a_second in (("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)):
        if 0 < value / in_a_second <= MAX_TIME_S:
            return f"is beyond the year 9999 and looks like {unit}; send seconds since 1970"
    return "is outside the years 1 to 9999; send seconds since 1970"


# --- what was kept --------------------------------------------------------------------------------------------------


def mended(value: Any) -> Any:
    """The nearest value that every store takes: for what an older version, or a hand, has put into a state."""
    return _mended(value, 0)


def mended_text(text: str) -> str:
    """NUL characters and halves of surrogate pairs become U+FFFD."""
    text = whole(text)
    return text.replace("\0", "\ufffd") if "\0" in text else text


# --- inside ---------------------------------------------------------------------------------------------------------


class _Look:
    """One pass over a value."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def fault(self, value: object, field: str, depth: int) -> Fault | None:
        self._left -= 1
        if self._left < 0:
            return Fault("", _MANY)
        if isinstance(value, str):
            problem = text_problem(value)
        elif value is None or isinstance(value, bool):
            return None
        elif isinstance(value, int):
            problem = None if -MAX_INTEGER - 1 <= value <= MAX_INTEGER else _TOO_LONG
        elif isinstance(value, float):
            problem = None if math.isfinite(value) else _NOT_FINITE
        elif isinstance(value, (Mapping, list, tuple)):
            return Fault(field, DEEP) if depth >= MAX_DEPTH else self._within(value, field, depth)
        else:
            problem = f"is of type {type(value).__name__}, which JSON has not; send it as a text"
        return None if problem is None else Fault(field, problem)

    def _within(self, value: Mapping[Any, object] | list[object] | tuple[object, ...], field: str, depth: int) -> Any:
        if not isinstance(value, Mapping):
            if len(value) <= self._left and _is_plain(value):
                self._left -= len(value)
                return None
            faults = (self.fault(each, f"{field}[{number}]", depth + 1) for number, each in enumerate(value))
            return next((fault for fault in faults if fault is not None), None)
        if len(value) <= self._left and _is_plain_object(value):
            self._left -= len(value)
            return None
        for key, each in value.items():
            if not isinstance(key, str):
                return Fault(field, f"the key {_shown(str(key))} is no text; write it in quotation marks")
            if (problem := text_problem(key)) is not None:
                return Fault(field, f"the key {_shown(key)} {problem}")
            inner = f"{field}.{_shown(key)}" if field else _shown(key)
            if (fault := self.fault(each, inner, depth + 1)) is not None:
                return fault
        return None


def _is_plain_object(value: Mapping[Any, object]) -> bool:
    for key in value:
        if type(key) is not str or not key.isascii() or "\0" in key:
            return False
    return _is_plain(value.values())


def _is_plain(parts: Iterable[object]) -> bool:
    """Whether all are sound and none holds others, which is so of nearly all: seen in a fraction of the time."""
    for each in parts:
        kind = type(each)
        if kind is str:
            if not each.isascii() or "\0" in each:  # type: ignore[attr-defined, operator]
                return False
        elif kind is float or kind is int:
            if not _LEAST <= each <= _MOST:  # type: ignore[operator]
                return False
        elif each is not None and kind is not bool:
            return False
    return True


def _parts(value: object, field: str) -> Iterator[tuple[str, object]]:
    """(path, value) of all that is no object and no list, in the order of the text, whatever the depth."""
    waiting: list[tuple[str, object]] = [(field, value)]
    while waiting:
        field, value = waiting.pop()
        if isinstance(value, Mapping):
            inner = [(f"{field}.{_shown(key)}" if field else _shown(key), each) for key, each in value.items()]
            waiting += reversed(inner)
        elif not isinstance(value, (list, tuple)):
            yield field, value
        elif not _is_plain(value):  # a text of 100,000 tokens as numbers is a usual request
            waiting += [(f"{field}[{number}]", each) for number, each in enumerate(value)][::-1]


def _numbers_fit(value: object) -> bool:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        kind = type(each)
        if kind is dict:
            waiting += each.values()  # type: ignore[attr-defined]
        elif kind is list or kind is tuple:
            if not _is_plain(each):  # type: ignore[arg-type]
                waiting += each  # type: ignore[arg-type]
        elif kind is int or kind is float:
            if not _LEAST <= each <= _MOST:  # type: ignore[operator]
                return False
        elif kind is not str and isinstance(each, Mapping):
            waiting += each.values()
    return True


def _whole_number(digits: str) -> int:
    """Of many digits, which Python itself refuses, any number that is too long as well."""
    return int(digits) if len(digits) <= 20 else MAX_INTEGER + 1


def _is_deep(value: object, depth: int) -> bool:
    if not isinstance(value, (Mapping, list, tuple)):
        return False
    parts = value.values() if isinstance(value, Mapping) else value
    return depth >= MAX_DEPTH or any(_is_deep(each, depth + 1) for each in parts)


def _shown(key: str) -> str:
    """A key in a path: a sender may call a field anything."""
    short = key if len(key) <= _SHOWN_CHARS else key[: _SHOWN_CHARS - 1] + "…"
    return short if re.fullmatch(r"[\w-]+…?", short) else ascii(short)


def _mended(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return mended_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if fault_of(value) is None else f"{value:#x}" if value.bit_length() > 4096 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not isinstance(value, (Mapping, list, tuple)):
        return mended_text(str(value))
    if depth >= MAX_DEPTH:
        return None
    if isinstance(value, Mapping):
        return {mended_text(str(key)): _mended(each, depth + 1) for key, each in value.items()}
    return [_mended(each, depth + 1) for each in value]
