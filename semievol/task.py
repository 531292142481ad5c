"""What a question looks like to the model, and what counts as an answer.

Owns prompts, the canonical spelling of answers, and the parsing of model output. Does not own tokens: the chat
template belongs to the tokenizer. Invariant: `parse` and `canonical` never return anything outside the query's
options or the configured closed set, and `parse(completion(canonical(a))) == canonical(a)`.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Sequence

from semievol.config import TaskConfig
from semievol.errors import ConfigError, DataError
from semievol.types import Example, Message, Query

MAX_OPTIONS = 26
_ANSWER_MARK = re.compile(r"\banswer\s*(?:is\s*)?:\s*", re.IGNORECASE)
_LETTER = re.compile(r"[(\[*]*([A-Za-z])(?:[)\].:,*]+(?:\s.*)?|)$")
_FOLDED_GAPS = re.compile(r"[\s_\-]+")
_WRAPPING = " \t\"'`*"
_TRAILING = ".,;:!"


def fold(text: str) -> str:
    """The form in which labels are compared: case, whitespace, underscores and hyphens do not matter."""
    return _FOLDED_GAPS.sub(" ", text.casefold()).strip()


def option_letter(index: int) -> str:
    """0 -> A, 1 -> B, ..."""
    return string.ascii_uppercase[index]


class Task:
    """Prompts and answers of one workload.

    Raises:
        ConfigError: two of the configured labels cannot be told apart.
    """

    def __init__(self, config: TaskConfig) -> None:
        self.config = config
        self._labels: dict[str, str] | None = None
        if config.labels is not None:
            self._labels = {}
            for label in config.labels:
                self._add_label(self._labels, label)

    @staticmethod
    def _add_label(labels: dict[str, str], label: str) -> None:
        folded = fold(label)
        if not folded:
            raise ConfigError("task.labels: contains an empty label; remove it")
        if "\n" in label:
            raise ConfigError(f"task.labels: {label!r} has a line break; answers are read from one line")
        if folded in labels:
            raise ConfigError(
                f"task.labels: {labels[folded]!r} and {label!r} differ only in case, spaces, underscores or hyphens; "
                "keep one of them"
            )
        labels[folded] = label

    # --- checking --------------------------------------------------------------------------------------------------

    def check_query(self, query: Query) -> None:
        """Refuse a query that this task cannot ask.

        Raises:
            DataError: naming the field and the fix.
        """
        if not query.question.strip():
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
        if self.config.form == "multiple_choice":
            self._check_options(query)
        elif query.options is not None:
            raise DataError(
                "field 'options': given, but task.form is classification; remove the options or set "
                "task.form to multiple_choice"
            )

    @staticmethod
    def _check_options(query: Query) -> None:
        if query.options is None:
            raise DataError("field 'options': missing; multiple_choice needs the list of options")
        if not 2 <= len(query.options) <= MAX_OPTIONS:
            raise DataError(f"field 'options': needs 2 to {MAX_OPTIONS} options, found {len(query.options)}")
        if not all(option.strip() for option in query.options):
            raise DataError("field 'options': contains an empty option")

    # --- answers ---------------------------------------------------------------------------------------------------

    def canonical(self, answer: str, query: Query) -> str:
        """The one spelling under which `answer` is stored, shown and compared.

        Raises:
            DataError: `answer` is empty, no letter of the query's options, or outside the closed set.
        """
        if self.config.form == "multiple_choice":
            letters = self._letters(query)
            letter = answer.strip().upper()
            if len(letter) != 1 or letter not in letters:
                raise DataError(
                    f"field 'answer': {answer!r} is not one of the letters {letters[0]} to {letters[-1]} of this "
                    "query's options; give the letter of the right option"
                )
            return letter
        if self._labels is None:
            text = _open_answer(answer)
            if text is None:
                raise DataError("field 'answer': is empty")
            return text
        label = self._labels.get(fold(answer))
        if label is None:
            close = difflib.get_close_matches(fold(answer), self._labels, n=1, cutoff=0.8)
            hint = f" (did you mean {self._labels[close[0]]!r}?)" if close else ""
            raise DataError(
                f"field 'answer': {answer!r} is not one of the {len(self._labels)} labels{hint}; "
                "fix the spelling or add it to task.labels"
            )
        return label

    def parse(self, text: str, query: Query, *, truncated: bool = False) -> str | None:
        """The canonical answer in a model's `text`, or None where there is none.

        Lenient about `Answer: X`, quotes, trailing punctuation and `C. the option's text`; strict about the set.
        `truncated`: generation stopped at the token limit, so that a label on an unfinished line is no label.
        """
        answer = self._parse_line(text, query, truncated)
        if answer is None and (marks := list(_ANSWER_MARK.finditer(text))):
            answer = self._parse_line(text[marks[-1].end() :], query, truncated)
        return answer

    def _parse_line(self, text: str, query: Query, truncated: bool) -> str | None:
        line, newline, _ = text.strip().partition("\n")
        if self.config.form == "multiple_choice":
            return self._parse_choice(line, query)
        if truncated and not newline:
            return None
        return _open_answer(line) if self._labels is None else self._parse_label(line)

    def _parse_label(self, line: str) -> str | None:
        assert self._labels is not None
        whole = self._labels.get(fold(line))
        if whole is not None:
            return whole
        return self._labels.get(fold(line.strip(_WRAPPING).rstrip(_TRAILING).strip(_WRAPPING)))

    def _parse_choice(self, line: str, query: Query) -> str | None:
        letters = self._letters(query)
        match = _LETTER.match(line.strip())
        if match:
            letter = match.group(1).upper()
            return letter if letter in letters else None
        return self._parse_option_text(line, query)

    @staticmethod
    def _parse_option_text(line: str, query: Query) -> str | None:
        """`positive` or `C positive` where option C, and no other, reads `positive`."""
        said = {fold(line), fold(line.strip(_WRAPPING).rstrip(_TRAILING).strip(_WRAPPING))}
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

    # --- prompts ---------------------------------------------------------------------------------------------------

    def prompt(self, query: Query, neighbours: Sequence[Example] = ()) -> tuple[Message, ...]:
        """The conversation to be answered: system message, each neighbour as question and answer, then the query.

        A conversation (`query.messages`) is kept as it came, after the neighbours; its system message joins ours,
        because chat templates accept one, at the start.
        """
        systems = [self.config.instruction] if self.config.instruction else []
        turns: list[Message] = []
        for example in neighbours:
            turns += _without_system(self._turns(example.query))
            turns.append(Message("assistant", self.completion(example.answer)))
        own = self._turns(query)
        systems += [message.content for message in own if message.role == "system"]
        turns += _without_system(own)
        if systems:
            turns.insert(0, Message("system", "\n\n".join(systems)))
        return tuple(turns)

    def justify_prompt(
        self, query: Query, neighbours: Sequence[Example], candidates: Sequence[str]
    ) -> tuple[Message, ...]:
        """Self-justification: the same conversation, its last turn extended by the candidate answers to pick from."""
        shown = []
        for candidate in candidates:
            text = candidate
            if self.config.form == "multiple_choice" and query.options:
                text = f"{candidate}. {query.options[string.ascii_uppercase.index(candidate)]}"
            shown.append(f"- {text}")
        kind = "letter of the best one" if self.config.form == "multiple_choice" else "best one"
        *before, last = self.prompt(query, neighbours)
        question = last.content.removesuffix("\nAnswer:")
        listing = "\n".join(shown)
        content = f"{question}\n\nCandidate answers:\n{listing}\n\nReply with the {kind} only.\nAnswer:"
        return (*before, Message("user", content))

    def choices(self, query: Query) -> tuple[str, ...] | None:
        """The texts of all answers to `query`; None where the set is open."""
        if self.config.form == "multiple_choice":
            return tuple(self._letters(query))
        return None if self._labels is None else tuple(map(self.completion, self._labels.values()))

    def completion(self, answer: str) -> str:
        """The text that the model learns to say for a canonical `answer`."""
        return answer

    def _turns(self, query: Query) -> tuple[Message, ...]:
        if query.messages is not None:
            return query.messages
        content = self.config.template.replace("{question}", query.question)
        if self.config.form == "multiple_choice":
            options = "\n".join(f"{option_letter(i)}. {text}" for i, text in enumerate(query.options or ()))
            content = f"{content}\n{options}\nAnswer:"
        return (Message("user", content),)


def _open_answer(text: str) -> str | None:
    """An answer of an open set: any non-empty text, whitespace collapsed, without a leading `Answer:`."""
    collapsed = " ".join(text.split())
    while match := _ANSWER_MARK.match(collapsed):
        collapsed = collapsed[match.end() :]
    return collapsed or None


def _without_system(turns: Sequence[Message]) -> list[Message]:
    return [message for message in turns if message.role != "system"]
