"""The forms that answers take, and which one a task has.

Owns the protocol and the choice by `task.form` alone; each form is in a module of its own.
"""

from __future__ import annotations

from typing import Protocol

from semievol.config.method import TaskConfig
from semievol.tasks.closed import LabelAnswers, LetterAnswers, OpenLabelAnswers
from semievol.tasks.numeric import NumericAnswers
from semievol.tasks.text import FreeFormAnswers, ShortAnswers
from semievol.types import Query


class AnswerForm(Protocol):
    """What counts as an answer, and when two of them are the same."""

    def canonical(self, answer: str, query: Query) -> str:
        """The one spelling of a given answer; canonical answers are their own.

        Raises:
            DataError: it is none; naming the field and the fix.
        """
        ...

    def parse(self, text: str, query: Query, truncated: bool) -> str | None:
        """The canonical answer in a model's text, or None; `truncated`: the text was cut at the token limit."""
        ...

    def choices(self, query: Query) -> tuple[str, ...] | None:
        """All canonical answers to `query`; None where the set is open."""
        ...

    def same(self, one: str, other: str) -> bool:
        """Whether two canonical answers are the same."""
        ...


def answer_form(config: TaskConfig) -> AnswerForm:
    """The form that the configuration names.

    Raises:
        ConfigError: its labels cannot be told apart.
    """
    match config.form:
        case "multiple_choice":
            return LetterAnswers(config.answer_index)
        case "numeric":
            return NumericAnswers(config.tolerance)
        case "short_answer":
            return ShortAnswers()
        case "free_form":
            return FreeFormAnswers()
        case "classification":
            return OpenLabelAnswers() if config.labels is None else LabelAnswers(config.labels)
