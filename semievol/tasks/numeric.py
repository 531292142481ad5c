"""Answers that are numbers, as in ConvFinQA: read out of prose, written plainly, compared with a tolerance.

Owns what is a number in a text and when two answers are the same. Numbers are decimal, never binary floats, so that
0.7 % is 0.007. Words of scale are not applied (`1.5 million` is 1.5: tables are in millions, and so are their answers).

The rule of percent: a percentage is the fraction it stands for (12.5 % = 0.125), and also the same figure without the
sign (12.5 % = 12.5) where that is above 1 in size, because up to 1 a bare figure reads as a fraction. Without
a sign on either side 0.125 and 12.5 differ. Only zero is zero, whatever the tolerance.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

from semievol.errors import DataError
from semievol.tasks.form import AnswerForm
from semievol.tasks.spans import ANSWER_MARK, after_last_mark, first_line
from semievol.types import Query

# GSM8K marks its answers by four hashes.
_MARK = re.compile(rf"{ANSWER_MARK.pattern}|####", re.IGNORECASE)
_RESULT = re.compile(r"[=≈]")
_MINUS_SIGNS = str.maketrans(dict.fromkeys("−–", "-"))
_NUMBER = re.compile(
    r"""
    (?P<open>\(\s*)?                                                    # (1,234) is negative in accounts
    (?<![\w.])                                                          # not the 3 of Q3 or of 1.2.3
    (?P<minus>-)?
    (?:(?:(?:US|[ACHS])?[$€£¥₹]|USD|EUR|GBP|JPY|CNY|RMB|CHF|INR|Rs\.?)\s*)?
    (?P<inner_minus>-)?
    (?P<digits>
      [0-9]{1,3}(?:[,\xa0\u2009\u202f][0-9]{3})+(?![0-9])(?:\.[0-9]+)?  # 1,234.5
      | [0-9]+(?:\.[0-9]+)? | \.[0-9]+
    )
    (?:[eE](?P<exponent>[-+]?[0-9]{1,3})(?!\w)
      | \s*(?:[x×*]|\\times)\s*10\s*\^\s*\{?(?P<power>[-+]?[0-9]{1,3})(?![0-9])\}?
    )?
    (?P<percent>\s*(?:\\?%|percent\b|per\s+cent\b|pct\b))?
    (?P<close>\s*\)(?P<outer_percent>\s*\\?%)?)?
    """,
    re.VERBOSE,
)
# 3,5 and 1.234,5: where the comma is the decimal mark, one number, else two.
_DECIMAL_COMMA = re.compile(r"(?<![0-9.,])[0-9]+(?:\.[0-9]{3})*,[0-9]{1,2}(?![0-9]|,[0-9])|[0-9]\.[0-9]{3},[0-9]")
_GAPS = re.compile(r"[ \t\r\n]+")
_MAX_MAGNITUDE = 300
"""Larger and smaller powers of ten are no answer: written out they would fill pages."""


class Number(NamedTuple):
    """A number as it was written; a percentage has the figure before the sign as its value."""

    value: Decimal
    percent: bool

    def __str__(self) -> str:
        text = format(self.value, "f")
        if "." in text:
            text = text.rstrip("0").rstrip(".")
        return text + "%" * self.percent


def numbers_in(text: str) -> tuple[Number, ...] | None:
    """All numbers of `text`, in order; None where there is none, or one beyond 10^300."""
    found = tuple(_number(match) for match in _NUMBER.finditer(text.translate(_MINUS_SIGNS)))
    if not found or any(number.value and abs(number.value.adjusted()) > _MAX_MAGNITUDE for number in found):
        return None
    return found


def _number(match: re.Match[str]) -> Number:
    bracketed = match["open"] is not None and match["close"] is not None
    sign = "-" if match["minus"] or match["inner_minus"] or bracketed else ""
    digits = re.sub(r"[^0-9.]", "", match["digits"])
    # By its text: arithmetic would round to the context's precision.
    value = Decimal(f"{sign}{digits}E{match['exponent'] or match['power'] or '0'}")
    percent = match["percent"] is not None or (bracketed and match["outer_percent"] is not None)
    return Number(value if value else Decimal(0), percent)


class NumericAnswers(AnswerForm):
    """One number or several; several are the same when each is the same as the one in its place.

    Args:
        tolerance: how far two numbers may be apart, as a share of the larger one.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = Decimal(repr(tolerance))

    def canonical(self, answer: str, query: Query) -> str:
        if (comma := _DECIMAL_COMMA.search(answer)) is not None:
            raise DataError(
                f"field 'answer': {answer!r} can be read in two ways, {comma.group()!r} as one number or as two; write "
                "a point before decimals, and a space after the comma between two numbers"
            )
        found = _answered(_GAPS.sub(" ", answer))
        if found is None:
            raise DataError(f"field 'answer': {answer!r} holds no number; give the number as digits")
        return _written(found)

    def parse(self, text: str, query: Query, truncated: bool) -> str | None:
        tail = after_last_mark(text, _MARK)
        line = first_line(text if tail is None else tail, truncated=truncated)
        found = None if line is None else _answered(line)
        return None if found is None else _written(found)

    def same(self, one: str, other: str) -> bool:
        first, second = numbers_in(one), numbers_in(other)
        if first is None or second is None or len(first) != len(second):
            return False
        return all(self._equal(*pair) for pair in zip(first, second, strict=True))

    def _equal(self, one: Number, other: Number) -> bool:
        if one.percent == other.percent:
            return self._close(one.value, other.value)
        percentage, bare = (one.value, other.value) if one.percent else (other.value, one.value)
        return self._close(percentage.scaleb(-2), bare) or (abs(bare) > 1 and self._close(percentage, bare))

    def _close(self, one: Decimal, other: Decimal) -> bool:
        return abs(one - other) <= self._tolerance * max(abs(one), abs(other))


def _answered(text: str) -> tuple[Number, ...] | None:
    """The numbers behind the last mark and, of a calculation, those of its result."""
    tail = after_last_mark(text, _MARK)
    text = text if tail is None else tail
    result = after_last_mark(text, _RESULT)
    return (None if result is None else numbers_in(result)) or numbers_in(text)


def _written(numbers: tuple[Number, ...]) -> str:
    return ", ".join(map(str, numbers))
