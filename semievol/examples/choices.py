"""Whether the answers are a closed set of labels, read off the examples: by their options, or by what they repeat.

Owns that guess alone; what a task does with labels is tasks'. Invariant: a task whose configuration decides already is
left as it is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from semievol.config.data import DataConfig
from semievol.config.method import MethodConfig
from semievol.config.task import TaskConfig
from semievol.errors import ConfigError, DataError
from semievol.examples.files import OpenSource
from semievol.examples.records import answers_of
from semievol.tasks.closed import reads_like_a_letter
from semievol.tasks.spans import fold

logger = logging.getLogger(__name__)

LEAST_EXAMPLES = 2
"""One alone shares nothing. No more are asked for: a small file of tests is to be read as a large one of examples."""

MAX_LABELS = 300
"""More different answers than this are no closed set that a person would keep."""
LABEL_CHARS = 60


def shared_options(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...] | None:
    """The options that all records have, as the first one lists them.

    None where they differ, are too few to say so, or could be taken for letters themselves.
    """
    first: tuple[str, ...] | None = None
    count = 0
    for record in records:
        options = record.get("options")
        if not isinstance(options, Sequence) or isinstance(options, str):
            return None
        texts = tuple(" ".join(str(option).split()) for option in options)
        first = first or texts
        if {fold(text) for text in texts} != {fold(text) for text in first} or len(texts) != len(first):
            return None
        count += 1
    if first is None or count < LEAST_EXAMPLES or len({fold(text) for text in first}) != len(first) or len(first) < 2:
        return None
    return None if any(not fold(text) or reads_like_a_letter(text) for text in first) else first


def closed_answers(answers: Sequence[str]) -> tuple[str, ...] | None:
    """The different answers, each in its most frequent spelling, in order of appearance.

    None where they look like no closed set: they are long, or so many that others are to be expected.
    """
    spellings: dict[str, Counter[str]] = {}
    for answer in answers:
        if len(answer) > LABEL_CHARS or "\n" in answer.strip():
            return None
        spellings.setdefault(fold(answer), Counter())[" ".join(answer.split())] += 1
    if not 1 <= len(spellings) <= min(MAX_LABELS, max(20, len(answers) // 2)):
        return None
    return tuple(counted.most_common(1)[0][0] for counted in spellings.values())


def settled(config: MethodConfig, examples: Path | str, *, labels: bool = True) -> MethodConfig:
    """`config` with task.labels, where they are left to the examples and these show a closed set.

    Options, where `task.answer_as` leaves it to the examples and all have the same; the labels of a classification
    where a part of labelling is on that takes a closed set (`labels`: the command labels). What is wrong with a record
    is for whoever reads the examples to say.

    Raises:
        ConfigError: a part takes a closed set, and the examples show none.
        DataError: task.answer_as is text, and the options differ.
    """
    found = config
    if config.task.labels is None and config.task.form == "multiple_choice":
        found = _by_options(config, examples)
    elif labels and config.task.labels is None and config.task.form == "classification" and config.needs_labels:
        found = _by_answers(config, examples)
    if labels and found.needs_labels and found.task.labels is None:
        raise ConfigError(f"{found.missing_labels}; {Path(examples).name} shows no closed set of answers: list them")
    return found


def _by_answers(config: MethodConfig, examples: Path | str) -> MethodConfig:
    answers: list[str] = []
    for record in _records(examples, config.data):
        try:
            answers += map(str, answers_of(record))
        except DataError:  # whoever reads the examples names the record
            continue
    labels = config.data.label_names or closed_answers(answers)
    if labels is None or len(labels) < 2 or not all(map(fold, labels)):
        return config
    logger.info("%s: its %d different answers are taken for task.labels", Path(examples).name, len(labels))
    return config.model_copy(
        update={"task": TaskConfig(**{**config.task.model_dump(exclude_unset=True), "labels": labels})}
    )


def _by_options(config: MethodConfig, examples: Path | str) -> MethodConfig:
    task = config.task
    if task.answer_as == "letter":
        return config
    labels = shared_options(_records(examples, config.data))
    if labels is None:
        if task.answer_as == "text":
            raise DataError(
                f"{examples}: task.answer_as is text, and not all examples have the same options (or fewer than "
                f"{LEAST_EXAMPLES} have any); list the options as task.labels, or set task.answer_as: letter"
            )
        return config
    logger.info(
        "%s: all have the same %d options, and are answered by their texts (task.answer_as: letter keeps letters)",
        Path(examples).name,
        len(labels),
    )
    changed = TaskConfig(**{**task.model_dump(exclude_unset=True), "answer_as": "text", "labels": labels})
    return config.model_copy(update={"task": changed})


def _records(source: Path | str, data: DataConfig) -> Iterable[Mapping[str, Any]]:
    return (record for _, record in OpenSource(source, data, "example") if not isinstance(record, DataError))
