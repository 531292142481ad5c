"""What a form of answers is: the questions that a task asks of it, with the answers that most forms give.

Owns the base class alone; which forms there are is in tasks.forms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from semievol.types import Query


class AnswerForm(ABC):
    """What counts as an answer, and when two of them are the same."""

    exact: ClassVar[bool] = False
    """Answers are the same only when they are spelled the same."""
    embeds: ClassVar[bool] = False
    """Whether answers mean the same is for an embedder to say (see tasks.equality)."""
    takes_options: ClassVar[bool] = False
    """Queries bring their own choices."""
    best_one: ClassVar[str] = "best one"
    """What the model is to reply when it picks among candidate answers."""

    @abstractmethod
    def canonical(self, answer: str, query: Query) -> str:
        """The one spelling of a given answer; canonical answers are their own.

        Raises:
            DataError: it is none; naming the field and the fix.
        """

    @abstractmethod
    def parse(self, text: str, query: Query, truncated: bool) -> str | None:
        """The canonical answer in a model's text, or None; `truncated`: the text was cut at the token limit."""

    def choices(self, query: Query) -> tuple[str, ...] | None:
        """All canonical answers to `query`; None where the set is open."""
        return None

    def same(self, one: str, other: str) -> bool:
        """Whether two canonical answers are the same."""
        return one == other

    def check(self, query: Query) -> None:  # noqa: B027 - most forms have nothing to refuse
        """Refuse a query whose options this form cannot ask.

        Raises:
            DataError: naming the field and the fix.
        """

    def turn(self, question: str, query: Query) -> str:
        """The user's turn: the question as the template has it, with what the form adds to it."""
        return question

    def listed(self, answer: str, query: Query) -> str:
        """A candidate answer as it is listed for the model to pick from; its further lines are set in."""
        return answer.replace("\n", "\n  ")
