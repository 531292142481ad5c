"""How files of records name what we ask and answer.

Owns the settings alone; what is recognised without them is semievol.examples.forms.
"""

from __future__ import annotations

from pydantic import Field, ValidationError, field_validator

from semievol.config.section import Section
from semievol.errors import ConfigError

MAPPED_FIELDS = ("id", "question", "messages", "options", "answer", "answers", "category", "source", "metadata")


class DataConfig(Section):
    """What the columns of files mean, where it cannot be recognised."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Our field: the file's column, as `{question: utterance, answer: intent}`; also `--columns
    question=utterance,answer=intent`. Fields are id, question, messages, options, answer, answers, category, source and
    metadata. A file that lacks such a column is read as if it were not mapped. Empty: forms are recognised."""
    label_names: tuple[str, ...] | None = None
    """The names of answers that files give as whole numbers, from 0 on (the ClassLabel of a Hugging Face data set).
    None: a whole number is the label that it is written as, unless the file itself names it."""

    @field_validator("columns")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        for field, column in value.items():
            if field not in MAPPED_FIELDS:
                raise ValueError(f"{field!r} is none of our fields; they are {', '.join(MAPPED_FIELDS)}")
            if not column:
                raise ValueError(f"{field}: names no column")
        taken = list(value.values())
        for column in taken:
            if taken.count(column) > 1:
                raise ValueError(f"the column {column!r} is given twice; each column is one field")
        if "question" in value and "messages" in value:
            raise ValueError("question and messages are two ways to ask; map one of them")
        return value

    @field_validator("label_names")
    @classmethod
    def _distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (len(set(value)) != len(value) or not all(name.strip() for name in value)):
            raise ValueError("label_names: each name must be there once, and none be empty")
        return value


def mapped(data: DataConfig, columns: str | None) -> DataConfig:
    """The same settings with `columns`, as `question=utterance,answer=intent`, instead of their own.

    Raises:
        ConfigError: it is not of this form.
    """
    if columns is None:
        return data
    given: dict[str, str] = {}
    for part in columns.split(","):
        name, equals, column = (each.strip() for each in part.partition("="))
        if not equals or not name or not column:
            raise ConfigError(f"--columns: {part.strip()!r} is not FIELD=COLUMN, as in question=text,answer=label")
        if name in given:
            raise ConfigError(f"--columns: {name} is given twice")
        given[name] = column
    try:
        return DataConfig(columns=given, label_names=data.label_names)
    except ValidationError as error:
        raise ConfigError(f"--columns: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
