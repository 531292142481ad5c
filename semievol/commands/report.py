"""What `semievol report` does: read a run directory, write one HTML page and the tables.

Owns the composition and the checks of what is given beside the run. Needs no model and changes nothing of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semievol.config.data import DataConfig
from semievol.errors import DataError
from semievol.examples.files import OUR_NAMES, read_examples
from semievol.examples.truth import true_answers
from semievol.report import page as report
from semievol.report.measures import Judge
from semievol.report.run_report import report_of
from semievol.report.stored_run import StoredRun, read_run
from semievol.report.tables import write_tables
from semievol.tasks.equality import is_correct
from semievol.tasks.task import Task
from semievol.types import Example, PseudoLabel


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Files of `semievol report`. `out` None: RUN/report.html; `tables` None: RUN/report.

    `answers` are true answers of the run's queries; `test` is the file that the run was tested on; `sweep` is a
    directory that holds a sweep.json. `data` says what the columns of the two files mean.
    """

    run: Path
    out: Path | None = None
    tables: Path | None = None
    answers: Path | None = None
    test: Path | None = None
    sweep: Path | None = None
    data: DataConfig = OUR_NAMES


def run_report(files: ReportFiles) -> dict[str, Any]:
    """`semievol report`: the page and the tables of one run.

    Raises:
        DataError: this is no run directory, or what is given beside it is not of this run.
    """
    run = read_run(files.run, files.sweep)
    truth = _truth(run, files.answers, files.data) if files.answers else {}
    tested = _tested(run, files.test, files.data) if files.test else []
    answers = {query_id: example.answer for query_id, example in truth.items()}
    data = report_of(run, answers, len(tested) or None, _judge(run, truth))
    out = files.out or files.run / "report.html"
    report.write(data, out)
    written = write_tables(data, files.tables or files.run / "report")
    return {
        "report": str(out),
        "tables": [str(path) for path in written],
        "rounds": len(data.rounds),
        "pseudo_labels": len(data.pool),
        "notes": list(data.notes),
    }


def _judge(run: StoredRun, truth: Mapping[str, Example]) -> Judge | None:
    """Compares as the task's form does; by spelling (None) where that would need the run's embedder."""
    task = None if run.task is None else Task(run.task)
    if task is None or task.embeds:
        return None

    def right(label: PseudoLabel, answer: str | None) -> bool | None:
        return is_correct(answer, truth[label.query.id], task.same) if label.query.id in truth else None

    return right


def _truth(run: StoredRun, answers: Path, data: DataConfig) -> dict[str, Example]:
    queries = {label.query.id: label.query for each in run.rounds for label in each.labels}
    truth = true_answers(answers, list(queries.values()), _task(run, "--answers"), data)
    if queries and not truth:
        raise DataError(
            f"{answers}: field 'id': holds none of the {len(queries)} ids that the run labelled "
            f"({next(iter(queries))!r}, say); give the answers of this run's queries"
        )
    return truth


def _tested(run: StoredRun, test: Path, data: DataConfig) -> Sequence[Example]:
    tested = read_examples(test, _task(run, "--test"), data)
    expected = {example.id: example.answer for example in tested}
    for adapter, outcomes in run.tests.items():
        other = expected.keys() ^ {outcome.id for outcome in outcomes}
        answered = run.path / "test" / f"{adapter or 'base'}.jsonl"
        if other:
            raise DataError(
                f"{test}: field 'id': is not what {answered} answers: {len(other)} ids are in one of them only "
                f"({min(other)!r}, say); give the file of `semievol evolve --test`"
            )
        changed = [outcome.id for outcome in outcomes if outcome.expected != expected[outcome.id]]
        if changed:
            raise DataError(
                f"{test}: field 'answer': of id {changed[0]!r} is not what {answered} was measured against; give the "
                "file of `semievol evolve --test`, or test again"
            )
    return tested


def _task(run: StoredRun, option: str) -> Task:
    if run.task is None:
        raise DataError(f"{run.path / 'run.json'}: field 'config.task': cannot be read, and {option} needs it")
    return Task(run.task)
