"""Answers in words: short ones, compared as SQuAD and DROP do, and free-form ones, whose meaning an embedder compares.

Owns how both are read and the normal form of short answers. Does not embed: see answer_equality.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable

from semievol.errors import DataError
from semievol.tasks.form import AnswerForm
from semievol.tasks.spans import after_last_mark, first_line, seen, without_leading_marks
from semievol.types import Query

_ARTICLES = frozenset({"a", "an", "the"})
# `20-year-old` is three words, `-5` is one number.
_BETWEEN_WORDS = re.compile(r"\s+|(?<=\w)-(?=\w)")
_AROUND_NUMBERS = "$€£¥%,;:!?()[]{}\"'"
_NUMBER = re.compile(r"([-+]?)0*([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.([0-9]*))?")
_SMALL_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_SMALL_NUMBERS)} | {
    word: str(10 * tens) for tens, word in enumerate(_TENS, start=2)
}


def normalised(text: str) -> str:
    """The form in which short answers are compared (Rajpurkar et al., 2016; Dua et al., 2019).

    Case, punctuation, articles and gaps do not matter; numbers are compared by value, small ones also when they are
    written as words. A text of nothing but punctuation or articles is compared as it stands.
    """
    folded = unicodedata.normalize("NFKC", seen(text)).casefold()
    words = [_word(part) for part in _BETWEEN_WORDS.split(folded)]
    said = [word for word in words if word]
    return " ".join([word for word in said if word not in _ARTICLES] or said) or " ".join(folded.split())


def _word(part: str) -> str:
    number = _NUMBER.fullmatch(part.strip(_AROUND_NUMBERS).rstrip("."))
    if number is not None:
        sign, whole, decimals = number.groups()
        decimals = (decimals or "").rstrip("0")
        value = whole.replace(",", "") + ("." + decimals if decimals else "")
        return f"-{value}" if sign == "-" and value != "0" else value
    bare = "".join(c for c in part if c not in string.punctuation and not unicodedata.category(c).startswith("P"))
    return _NUMBER_WORDS.get(bare, bare)


def token_f1(answer: str | None, accepted: Iterable[str]) -> float:
    """The best overlap of words with one of the `accepted` answers, in [0, 1]: SQuAD's F1. No answer: 0."""
    if answer is None:
        return 0.0
    return max((_overlap(normalised(answer).split(), normalised(gold).split()) for gold in accepted), default=0.0)


def _overlap(one: list[str], other: list[str]) -> float:
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other)) if common else 0.0


class ShortAnswers(AnswerForm):
    """A few words on one line, those behind the last `Answer:` where there is one."""

    def canonical(self, answer: str, query: Query) -> str:
        text = _behind_mark(" ".join(seen(answer).split()))
        if not text:
            raise DataError("field 'answer': is empty")
        return text

    def parse(self, text: str, query: Query, truncated: bool) -> str | None:
        line = first_line(_behind_mark(text), truncated=truncated)
        return " ".join(seen(line).split()) or None if line is not None else None

    def same(self, one: str, other: str) -> bool:
        return one == other or normalised(one) == normalised(other)


class FreeFormAnswers(AnswerForm):
    """The whole text, of any number of lines; one that was cut at the token limit is no answer."""

    embeds = True

    def canonical(self, answer: str, query: Query) -> str:
        text = self.parse(answer, query, truncated=False)
        if text is None:
            raise DataError("field 'answer': is empty")
        return text

    def parse(self, text: str, query: Query, truncated: bool) -> str | None:
        if truncated or not seen(text).strip():
            return None
        return without_leading_marks(text.replace("\r\n", "\n").strip()).strip() or None


def _behind_mark(text: str) -> str:
    tail = after_last_mark(text)
    return (text if tail is None else tail).strip()
