"""How an answer stands in a text: behind a mark, on a line, in quotes, or where the user's own pattern finds it.

Owns what the forms of answers share. Knows no form, no query and no configuration.
"""

from __future__ import annotations

import re
import unicodedata

ANSWER_MARK = re.compile(r"\banswer\s*(?:is\s*)?:\s*", re.IGNORECASE)
_FOLDED_GAPS = re.compile(r"[\s_\-\u2010-\u2015\u2212]+")
# Soft hyphens, marks of writing direction, of byte order and of where a line may break. The joiners are no such marks:
# without them a sign of several parts, or a word of some scripts, is another one.
_UNSEEN = re.compile("[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_WRAPPING = " \t\"'`*"
_TRAILING = ".,;:!"


def seen(text: str) -> str:
    """What people see of a text: its composed characters (NFC), without those that show nothing."""
    return text if text.isascii() else _UNSEEN.sub("", unicodedata.normalize("NFC", text))


def fold(text: str) -> str:
    """The form in which labels are compared: case, whitespace, underscores and dashes of any kind do not matter."""
    return _FOLDED_GAPS.sub(" ", seen(text).casefold()).strip()


def unwrapped(line: str) -> str:
    """The line without quotes and emphasis around it and without punctuation at its end."""
    return line.strip(_WRAPPING).rstrip(_TRAILING).strip(_WRAPPING)


def first_line(text: str, *, truncated: bool) -> str | None:
    """The first line that is not empty; None where that line was cut at the token limit (`truncated`)."""
    line, newline, _ = text.strip().partition("\n")
    return None if truncated and not newline else line


def after_last_mark(text: str, mark: re.Pattern[str] = ANSWER_MARK) -> str | None:
    """What follows the last `Answer:`; None where there is none."""
    marks = list(mark.finditer(text))
    return text[marks[-1].end() :] if marks else None


def without_leading_marks(text: str) -> str:
    """The text without `Answer:` at its start, however often it stands there."""
    while match := ANSWER_MARK.match(text):
        text = text[match.end() :]
    return text


def last_found(pattern: re.Pattern[str], text: str) -> tuple[str, bool] | None:
    """What `pattern` finds last: its first group or, without groups, the whole match; None where it finds nothing.

    Returns:
        The text found, and whether it ends where `text` does: cut at the token limit, it may be unfinished.
    """
    last: tuple[str, bool] | None = None
    for match in pattern.finditer(text):
        group = 1 if pattern.groups and match.group(1) is not None else 0
        if match.group(group).strip():  # `(.*)` also matches the nothing at the end
            last = match.group(group), match.end(group) == len(text)
    return last
