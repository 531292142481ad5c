"""Settings of the task: what is asked and what counts as an answer. No imports beyond pydantic."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from semievol.config.section import Section


class TaskConfig(Section):
    """What is asked and what counts as an answer."""

    form: Literal["classification", "multiple_choice", "numeric", "short_answer", "free_form"] = "classification"
    """classification: a label string; multiple_choice: a letter A, B, C... of the query's options; numeric: one number
    or several; short_answer: a few words, compared as SQuAD and DROP do; free_form: a text, compared by embedding."""
    labels: tuple[str, ...] | None = None
    """The closed set of labels of a classification task. None: any non-empty label string is an answer; on files, where
    a part is on that takes a closed set (labelling.consensus, labelling.probe), the answers of the examples, if they
    look like one. With `answer_as: text`, the options of a multiple choice, which are the same for every query."""
    answer_as: Literal["auto", "letter", "text"] = "auto"
    """multiple_choice: what stands for an option in prompts, answers and training. letter: its letter, behind the
    listed options; text: its own words, where all queries have the same options, so that they are `labels`. Files may
    then give letters, and the options may be left out. auto: text where `labels` are given or, on files, where all
    examples have the same options; else letter. `semievol init` writes which."""
    answer_index: Literal[0, 1] | None = None
    """multiple_choice: the number of option A where files give the right option as a whole number: 0 (MMLU on the
    Hugging Face hub) or 1 (parts of ARC). None: whole numbers are refused, for most fit both ways, one of them one off.
    """
    tolerance: float = Field(default=0.01, ge=0, lt=1)
    """numeric: numbers are the same up to this share of the larger one (ConvFinQA: 0.01); 0 wants equal ones."""
    similarity: float = Field(default=0.85, gt=0, le=1)
    """free_form: answers mean the same from this cosine of their embeddings on. It depends on the embedder: look at
    pairs of answers that do and that do not. Opposites are often as near as rewordings: then ask for labels."""
    instruction: str | None = None
    """System message put before every prompt. None: no system message (the chat template may add its own)."""
    template: str = "{question}"
    """The user turn; `{question}` is replaced. Multiple choice appends the lettered options and `Answer:`."""
    answer_pattern: str | None = None
    """Regular expression (Python's) that finds the answer in the model's text: its first group, or the whole match; the
    last match counts, and is then read as the form reads it. None: the form's own rule, behind `Answer:` or alone."""
    answer_template: str = "{answer}"
    """How an answer is written in prompts and in training; `{answer}` is replaced. With `answer_pattern`, a text in
    which the pattern finds the answer, or the model would unlearn what is read; examples are checked for it."""
    max_question_chars: int = Field(default=8_000, gt=0)
    """Longer questions are refused (dead-lettered by the daemon): they would not fit the prompt."""
    max_answer_tokens: int = Field(default=16, gt=0)
    """Generation stops after this many tokens; an answer cut there rarely parses. free_form: 256 unless set."""

    @property
    def asks_with_options(self) -> bool:
        """No answer can be read without the options of its query."""
        return self.form == "multiple_choice" and self.labels is None

    @property
    def closed(self) -> bool:
        """Whether an answer means the same for every query."""
        return self.form == "classification" or self.labels is not None

    @property
    def may_be_closed(self) -> bool:
        """Whether an answer means the same for every query, so that examples may show a closed set of them."""
        return self.form == "classification" or (self.form == "multiple_choice" and self.answer_as != "letter")

    @model_validator(mode="before")
    @classmethod
    def _room_for_free_form(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("form") == "free_form":
            return {"max_answer_tokens": 256, **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> TaskConfig:
        if "{question}" not in self.template:
            raise ValueError("template must contain {question}")
        if "{answer}" not in self.answer_template:
            raise ValueError("answer_template must contain {answer}")
        if self.answer_pattern is not None:
            try:
                re.compile(self.answer_pattern)
            except re.error as error:
                raise ValueError(
                    f"answer_pattern is no regular expression ({error}); mend it or leave it out"
                ) from None
        if self.answer_index is not None and self.form != "multiple_choice":
            raise ValueError(f"answer_index belongs to form multiple_choice; {self.form} has no options, leave it out")
        if self.answer_as == "text" and self.form != "multiple_choice":
            raise ValueError(f"answer_as belongs to form multiple_choice; {self.form} has no letters, leave it out")
        if self.labels is not None:
            if self.form == "multiple_choice" and self.answer_as == "letter":
                raise ValueError(
                    "labels belong to form classification, or to multiple_choice with answer_as: text; with letters, "
                    "options come with each query"
                )
            if self.form not in ("classification", "multiple_choice"):
                raise ValueError(f"labels belong to form classification; {self.form} has none, leave them out")
            if len(set(self.labels)) < 2:
                raise ValueError("labels needs at least two different labels, or none for an open set")
        return self
