"""Answers from a set: the labels of a classification and the letters of a multiple choice.

Owns their canonical spelling and how leniently a model's text is read. Invariant: nothing outside the configured
labels or the query's options is ever returned; two answers are the same when they are spelled the same.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Callable

from semievol.errors import ConfigError, DataError
from semievol.tasks.form import AnswerForm
from semievol.tasks.spans import after_last_mark, first_line, fold, seen, unwrapped, without_leading_marks
from semievol.types import Query

MAX_OPTIONS = 26
_LETTER = re.compile(r"[(\[*]*([A-Za-z])(?:[)\].:,*]+(?:\s.*)?|)$")


def option_letter(index: int) -> str:
    """0 -> A, 1 -> B, ..."""
    return string.ascii_uppercase[index]


class LabelAnswers(AnswerForm):
    """One of the configured labels.

    Raises:
        ConfigError: two of the labels cannot be told apart.
    """

    exact = True

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels: dict[str, str] = {}
        for label in labels:
            folded = fold(label)
            if not folded:
                raise ConfigError("task.labels: contains an empty label; remove it")
            if len(label.splitlines()) > 1:
                raise ConfigError(f"task.labels: {label!r} has a line break; answers are read from one line")
            if folded in self._labels:
                raise ConfigError(
                    f"task.labels: {self._labels[folded]!r} and {label!r} differ only in case, spaces, underscores, "
                    "hyphens, or in how the same characters are stored; keep one of them"
                )
            self._labels[folded] = label

    def canonical(self, answer: str, query: Query) -> str:
        label = self._labels.get(fold(answer))
        if label is None:
            close = difflib.get_close_matches(fold(answer), self._labels, n=1, cutoff=0.8)
            hint = f" (did you mean {self._labels[close[0]]!r}?)" if close else ""
            if answer.strip().isdecimal():
                hint = " (data.label_names names whole numbers)"
            raise DataError(
                f"field 'answer': {answer!r} is not one of the {len(self._labels)} labels{hint}; "
                "fix the spelling or add it to task.labels"
            )
        return label

    def parse(self, text: str, query: Query, truncated: bool) -> str | None:
        return _whole_or_marked(text, lambda part: self._line(part, truncated))

    def choices(self, query: Query) -> tuple[str, ...] | None:
        return tuple(self._labels.values())

    def _line(self, text: str, truncated: bool) -> str | None:
        line = first_line(text, truncated=truncated)
        if line is None:
            return None
        whole = self._labels.get(fold(line))
        return self._labels.get(fold(unwrapped(line))) if whole is None else whole


class OpenLabelAnswers(AnswerForm):
    """Any label string on one line; of an open set, so that nothing but emptiness is wrong with one."""

    exact = True

    def canonical(self, answer: str, query: Query) -> str:
        text = _collapsed(answer)
        if text is None:
            raise DataError("field 'answer': is empty")
        return text

    def parse(self, text: str, query: Query, truncated: bool) -> str | None:
        return _whole_or_marked(text, lambda part: self._line(part, truncated))

    def _line(self, text: str, truncated: bool) -> str | None:
        line = first_line(text, truncated=truncated)
        return None if line is None else _collapsed(line)


class LetterAnswers(AnswerForm):
    """The letter of one of the query's options.

    Args:
        first: the whole number that stands for A where one is given; None: whole numbers are refused.
    """

    exact = True
    takes_options = True
    best_one = "letter of the best one"

    def __init__(self, first: int | None = None) -> None:
        self._first = first

    def check(self, query: Query) -> None:
        """Refuse options that cannot be lettered.

        Raises:
            DataError: naming the fix.
        """
        if query.options is None:
            raise DataError("field 'options': missing; multiple_choice needs the list of options")
        if not 2 <= len(query.options) <= MAX_OPTIONS:
            raise DataError(f"field 'options': needs 2 to {MAX_OPTIONS} options, found {len(query.options)}")
        if not all(option.strip() for option in query.options):
            raise DataError("field 'options': contains an empty option")

    def turn(self, question: str, query: Query) -> str:
        options = "\n".join(f"{option_letter(i)}. {text}" for i, text in enumerate(query.options or ()))
        return f"{question}\n{options}\nAnswer:"

    def listed(self, answer: str, query: Query) -> str:
        return f"{answer}. {query.options[string.ascii_uppercase.index(answer)]}" if query.options else answer

    def canonical(self, answer: str, query: Query) -> str:
        letters = self._letters(query)
        letter = answer.strip().upper()
        if letter.isascii() and letter.isdecimal():
            letter = self._numbered(int(letter), letters)
        if len(letter) != 1 or letter not in letters:
            raise DataError(
                f"field 'answer': {answer!r} is not one of the letters {letters[0]} to {letters[-1]} of this "
                "query's options; give the letter of the right option"
            )
        return letter

    def _numbered(self, number: int, letters: str) -> str:
        """The letter of the option with this number; a number that fits two ways is none."""
        readings = {first: letters[number - first] for first in (0, 1) if 0 <= number - first < len(letters)}
        if self._first in readings:
            return readings[self._first]
        if self._first is not None or not readings:
            counted = "" if self._first is None else f" counted from {self._first}, as task.answer_index says"
            raise DataError(f"field 'answer': {number} is the number of none of the {len(letters)} options{counted}")
        told = ", ".join(f"counted from {first} it is {letter}" for first, letter in readings.items())
        raise DataError(
            f"field 'answer': {number} is the number of an option, and {told}; set task.answer_index: "
            f"{' or '.join(map(str, readings))}, or give the letter"
        )

    def parse(self, text: str, query: Query, truncated: bool) -> str | None:
        """Also a truncated text: the letter stands first."""
        return _whole_or_marked(text, lambda part: self._line(part, query))

    def choices(self, query: Query) -> tuple[str, ...] | None:
        return tuple(self._letters(query))

    def _line(self, text: str, query: Query) -> str | None:
        line = text.strip().partition("\n")[0].strip()
        letters = self._letters(query)
        match = _LETTER.match(line)
        if match:
            letter = match.group(1).upper()
            return letter if letter in letters else None
        return self._option_text(line, query)

    @staticmethod
    def _option_text(line: str, query: Query) -> str | None:
        """`positive` or `C positive` where option C, and no other, reads `positive`."""
        said = {fold(line), fold(unwrapped(line))}
        hits = []
        for index, option in enumerate(query.options or ()):
            letter = option_letter(index)
            if said & {fold(option), fold(f"{letter} {option}"), fold(f"{letter}. {option}")}:
                hits.append(letter)
        return hits[0] if len(hits) == 1 else None

    @staticmethod
    def _letters(query: Query) -> str:
        if not query.options:
            raise DataError("field 'options': missing; multiple_choice needs the list of options")
        return string.ascii_uppercase[: len(query.options)]


class OptionAnswers(LabelAnswers):
    """The text of one of the options that every query has: labels, whatever letters the files give for them.

    Args:
        labels: the options of every query, in any order.
        first: the whole number that stands for a query's first option where one is given; None: such are refused.

    Raises:
        ConfigError: two of the options cannot be told apart, or one reads like a letter or number of an option.
    """

    takes_options = True

    def __init__(self, labels: tuple[str, ...], first: int | None = None) -> None:
        super().__init__(labels)
        for label in labels:
            if reads_like_a_letter(label):
                raise ConfigError(
                    f"task.labels: {label!r} reads like the letter or number of an option; set task.answer_as: letter "
                    "and leave the labels out"
                )
        self._letters = LetterAnswers(first)

    def check(self, query: Query) -> None:
        """Refuse options that are not the labels.

        Raises:
            DataError: naming the fix.
        """
        if query.options is None:
            return
        given = {fold(option) for option in query.options}
        if len(given) != len(query.options) or given != self._labels.keys():
            raise DataError(
                f"field 'options': are not the {len(self._labels)} of task.labels, and answers are their texts; leave "
                "them out, mend them, or set task.answer_as: letter where options differ from query to query"
            )

    def canonical(self, answer: str, query: Query) -> str:
        if query.options and reads_like_a_letter(answer):
            letter = self._letters.canonical(answer, query)
            answer = query.options[string.ascii_uppercase.index(letter)]
        return super().canonical(answer, query)


def reads_like_a_letter(text: str) -> bool:
    """Whether a text can be meant as the letter or the number of an option."""
    said = text.strip()
    return said.isascii() and (said.isdecimal() or (len(said) == 1 and said.isalpha()))


def _whole_or_marked(text: str, read: Callable[[str], str | None]) -> str | None:
    """What `read` finds in the whole text, which may itself hold a mark as a label does, else behind its last mark."""
    answer = read(text)
    if answer is None and (tail := after_last_mark(text)) is not None:
        return read(tail)
    return answer


def _collapsed(text: str) -> str | None:
    return without_leading_marks(" ".join(seen(text).split())) or None
