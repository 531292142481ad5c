"""What a question looks like to the model, and where in its text the answer is.

Owns prompts and completions. What counts as an answer is the form's (tasks.forms); tokens and the chat template are
the tokenizer's. Invariant: `parse` and `canonical` never return anything outside the query's options or the
configured closed set, and `parse(completion(canonical(a))) == canonical(a)`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from semievol.config.method import TaskConfig
from semievol.errors import DataError
from semievol.tasks.forms import answer_form
from semievol.tasks.spans import last_found, seen
from semievol.types import Example, Message, Query

BARE = "{answer}"
SHOWN = 4_096
"""Plain examples whose turns are kept."""


class Task:
    """Prompts and answers of one workload.

    Raises:
        ConfigError: two of the configured labels cannot be told apart.
    """

    def __init__(self, config: TaskConfig) -> None:
        self.config = config
        self._form = answer_form(config)
        self._pattern = None if config.answer_pattern is None else re.compile(config.answer_pattern)
        # The same examples are shown to many queries.
        self._shown_turns = lru_cache(maxsize=SHOWN)(self._turns_of_example)

    # --- checking --------------------------------------------------------------------------------------------------

    def check_query(self, query: Query) -> None:
        """Refuse a query that this task cannot ask.

        Raises:
            DataError: naming the field and the fix.
        """
        if not seen(query.question).strip():
            raise DataError("field 'question': is empty")
        chars = len(query.question) + sum(map(len, query.options or ()))
        if query.messages is not None:
            chars = sum(len(message.content) for message in query.messages)
            if not query.messages or query.messages[-1].role != "user":
                raise DataError("field 'messages': the last message must be the user's question")
        if chars > self.config.max_question_chars:
            raise DataError(
                f"field 'question': has {chars} characters, more than task.max_question_chars "
                f"({self.config.max_question_chars}); shorten it or raise the limit"
            )
        self._form.check(query)
        if query.options is not None and not self._form.takes_options:
            raise DataError(
                f"field 'options': given, but task.form is {self.config.form}; remove the options (`choices` are some, "
                "too) or set task.form to multiple_choice"
            )

    # --- answers ---------------------------------------------------------------------------------------------------

    @property
    def exact(self) -> bool:
        """Answers are the same only when they are spelled the same."""
        return self._form.exact

    @property
    def embeds(self) -> bool:
        """Whether answers mean the same is for an embedder to say (see tasks.equality)."""
        return self._form.embeds

    def canonical(self, answer: str, query: Query) -> str:
        """The one spelling under which `answer` is stored, shown and taught.

        Raises:
            DataError: `answer` is empty, no letter of the query's options, outside the closed set, no number; or
                written by task.answer_template it would not be read back.
        """
        canonical = self._form.canonical(answer, query)
        if self._pattern is not None or self.config.answer_template != BARE:
            taught = self.completion(canonical)
            read = self.parse(taught, query)
            if read != canonical:
                raise DataError(
                    f"field 'answer': {canonical!r} is taught as {taught!r}, which is read as {read!r}; make "
                    "task.answer_template and task.answer_pattern agree"
                )
        return canonical

    def knows(self, answer: str, query: Query) -> bool:
        """Whether a stored answer is still one of this task: its labels, or its form, may have changed since."""
        try:
            return self.canonical(answer, query) == answer
        except DataError:
            return False

    def parse(self, text: str, query: Query, *, truncated: bool = False) -> str | None:
        """The canonical answer in a model's `text`, or None where there is none.

        Lenient about `Answer: X`, quotes, trailing punctuation and `C. the option's text`; strict about the set. With
        `task.answer_pattern`, what it finds last is read so, and nothing else.
        `truncated`: generation stopped at the token limit, so that a label on an unfinished line is no label.
        """
        if self._pattern is not None:
            found = last_found(self._pattern, text)
            if found is None:
                return None
            text, at_end = found
            truncated = truncated and at_end
        return self._form.parse(text, query, truncated)

    def same(self, one: str, other: str) -> bool:
        """Whether two canonical answers are the same; free-form ones only by their spelling."""
        return self._form.same(one, other)

    # --- prompts ---------------------------------------------------------------------------------------------------

    def prompt(self, query: Query, neighbours: Sequence[Example] = ()) -> tuple[Message, ...]:
        """The conversation to be answered: system message, each neighbour as question and answer, then the query.

        A conversation (`query.messages`) is kept as it came, after the neighbours; its system message joins ours,
        because chat templates accept one, at the start.
        """
        systems = [self.config.instruction] if self.config.instruction else []
        turns: list[Message] = []
        for example in neighbours:
            query_ = example.query
            if query_.messages is None and query_.options is None:
                turns += self._shown_turns(query_.question, example.answer)
            else:
                turns += [*self._without_system(query_), Message("assistant", self.completion(example.answer))]
        systems += [message.content for message in query.messages or () if message.role == "system"]
        turns += self._without_system(query)
        if systems:
            turns.insert(0, Message("system", "\n\n".join(systems)))
        return tuple(turns)

    def justify_prompt(
        self, query: Query, neighbours: Sequence[Example], candidates: Sequence[str]
    ) -> tuple[Message, ...]:
        """Self-justification: the same conversation, its last turn extended by the candidate answers to pick from."""
        ending = "only.\nAnswer:"
        if self.config.answer_template != BARE:
            ending = f"only, written as: {self.completion('...')}"
        *before, last = self.prompt(query, neighbours)
        question = last.content.removesuffix("\nAnswer:")
        listing = "\n".join(f"- {self._form.listed(candidate, query)}" for candidate in candidates)
        content = f"{question}\n\nCandidate answers:\n{listing}\n\nReply with the {self._form.best_one} {ending}"
        return (*before, Message("user", content))

    def choices(self, query: Query) -> tuple[str, ...] | None:
        """The texts of all answers to `query`; None where the set is open."""
        answers = self._form.choices(query)
        return None if answers is None else tuple(map(self.completion, answers))

    def answers(self, query: Query) -> tuple[str, ...] | None:
        """All canonical answers to `query`; None where the set is open."""
        return self._form.choices(query)

    def completion(self, answer: str) -> str:
        """The text that the model learns to say for a canonical `answer`."""
        return self.config.answer_template.replace(BARE, answer)

    def _turns_of_example(self, question: str, answer: str) -> tuple[Message, ...]:
        return (*self._without_system(Query("", question)), Message("assistant", self.completion(answer)))

    def _without_system(self, query: Query) -> Sequence[Message]:
        """The turns that ask `query`."""
        if query.messages is not None:
            return [message for message in query.messages if message.role != "system"]
        question = self.config.template.replace("{question}", query.question)
        return (Message("user", self._form.turn(question, query)),)
