"""The names that mean something in people's data, however they are written.

Owns the list of names and the reading of `Question` as `question`; not what a name means. Pure.
"""

from __future__ import annotations

from semievol.config.data import DataConfig
from semievol.errors import DataError
from semievol.examples.options import CHOICES
from semievol.examples.records import KNOWN_FIELDS, Row
from semievol.examples.sources import MARK

QUESTIONS = ("question", "messages", "conversations", "text", "prompt", "instruction", "input")
ANSWERS = ("answer", "label", "label_text", "completion", "output", "answerKey")


def known_names(data: DataConfig) -> frozenset[str]:
    """The names of columns that mean something under these settings."""
    return frozenset({*KNOWN_FIELDS, *QUESTIONS, *ANSWERS, CHOICES, *data.columns.values()})


class KnownNames:
    """Names as we know them, for those of a row that differ in case, in spaces around them or in marks alone."""

    def __init__(self, data: DataConfig) -> None:
        self._known = {folded(name): name for name in known_names(data)}
        self._known.update({folded(name): name for name in data.columns.values()})

    def of(self, row: Row) -> Row:
        """The row under known names; a name is taken as it is where the known one is there, too.

        Raises:
            DataError: two names of the row are one.
        """
        others: dict[str, str] = {}
        for name in row:
            known = self._known.get(folded(name), name)
            if known == name or known in row:
                continue
            if known in others.values():
                first = next(each for each in others if others[each] == known)
                raise DataError(f"field {known!r}: can be read in two ways, {first!r} or {name!r}; keep one of them")
            others[name] = known
        return {others.get(name, name): value for name, value in row.items()} if others else row


def folded(name: str) -> str:
    """What two writings of one name have in common."""
    return name.replace(MARK, "").strip().casefold()
