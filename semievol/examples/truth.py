"""The true answers of queries, where somebody knows them: they score pseudo-labels, and nothing is selected by them.

Owns which query gets which of them. Not how the file is read: see data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from semievol.config.data import DataConfig
from semievol.errors import DataError
from semievol.examples.files import OUR_NAMES, read_answers
from semievol.examples.records import example_of
from semievol.tasks.task import Task
from semievol.types import Example, Query


def true_answers(path: Path, queries: Sequence[Query], task: Task, data: DataConfig = OUR_NAMES) -> dict[str, Example]:
    """Those queries whose truth the file knows, with their canonical answers, by id.

    Raises:
        DataError: an answer is none of the task's.
    """
    given = read_answers(path, data)
    truth = {}
    for query in queries:
        if query.id in given:
            try:
                truth[query.id] = example_of(query, given[query.id], task)
            except DataError as error:
                raise DataError(f"{path.name}: id {query.id!r}: {error}") from None
    return truth
