"""The forms that answers take, and which one a task has.

Owns the choice by `task.form` alone. To add a form: a subclass of AnswerForm (tasks.form) in a module of its own, its
name in `TaskConfig.form`, and its case here, which the type checker misses until it is there.
"""

from __future__ import annotations

from semievol.config.method import TaskConfig
from semievol.errors import ConfigError
from semievol.tasks.closed import LabelAnswers, LetterAnswers, OpenLabelAnswers, OptionAnswers
from semievol.tasks.form import AnswerForm
from semievol.tasks.numeric import NumericAnswers
from semievol.tasks.text import FreeFormAnswers, ShortAnswers


def answer_form(config: TaskConfig) -> AnswerForm:
    """The form that the configuration names.

    Raises:
        ConfigError: its labels cannot be told apart, or are missing.
    """
    match config.form:
        case "multiple_choice":
            if config.labels is not None:
                return OptionAnswers(config.labels, config.answer_index)
            if config.answer_as == "text":
                raise ConfigError("task.answer_as: text needs the options of every query as task.labels; list them")
            return LetterAnswers(config.answer_index)
        case "numeric":
            return NumericAnswers(config.tolerance)
        case "short_answer":
            return ShortAnswers()
        case "free_form":
            return FreeFormAnswers()
        case "classification":
            return OpenLabelAnswers() if config.labels is None else LabelAnswers(config.labels)
