"""Whether the options of a multiple choice are a closed set of labels, read off the examples.

Owns that guess alone; what a task does with labels is tasks'. Invariant: a task whose configuration decides already is
left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from semievol.config.data import DataConfig
from semievol.config.method import MethodConfig
from semievol.config.task import TaskConfig
from semievol.errors import DataError
from semievol.examples.files import OpenSource
from semievol.tasks.closed import reads_like_a_letter
from semievol.tasks.spans import fold

logger = logging.getLogger(__name__)

LEAST_EXAMPLES = 2
"""One alone shares nothing. No more are asked for: a small file of tests is to be read as a large one of examples."""


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


def settled(config: MethodConfig, examples: Path | str) -> MethodConfig:
    """`config` with the options as task.labels, where `task.answer_as` leaves it to the examples and all have the same.

    What is wrong with a record is for whoever reads the examples to say.

    Raises:
        DataError: task.answer_as is text, and the options differ.
    """
    task = config.task
    if task.form != "multiple_choice" or task.answer_as == "letter" or task.labels is not None:
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
