"""A run directory read back, as far as it got: values for the report, and in words what could not be read.

Owns the reading; changes nothing on disk, and means nothing by it (run_report does). Invariant: only a directory that
is no run's is an error; every other missing or damaged part is absent here and named in `problems`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from semievol.adapter_directory import MANIFEST_FILE, Manifest
from semievol.config.method import Section, SelectionConfig, TaskConfig
from semievol.errors import DataError
from semievol.report.data import SweepPoint, sweep_from_json
from semievol.runs.directory import Kind, RoundDirectory, RoundResult, RunDirectory
from semievol.training.job import read_snapshot
from semievol.training.progress import LOSSES_FILE, read_progress
from semievol.types import Outcome, PseudoLabel

SWEEP_FILE = "sweep.json"

Value = TypeVar("Value")
Model = TypeVar("Model", bound=Section)


@dataclass(frozen=True, slots=True)
class StoredRound:
    """One round. `result` None: not finished, and `standing` says where it stands.

    `reasons`: why each pseudo-label was not selected, by query id (None: it was). `incumbent` and `candidate` are the
    answers to the holdout. `shown` are the examples trained on, by id, as question and answer.
    """

    number: int
    result: RoundResult | None = None
    labels: tuple[PseudoLabel, ...] = ()
    reasons: Mapping[str, str | None] = field(default_factory=dict)
    incumbent: tuple[Outcome, ...] = ()
    candidate: tuple[Outcome, ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    shown: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    standing: str = ""

    @property
    def kind(self) -> Kind:
        return "warm" if self.number == 1 else "evolve"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One run. `tests` are the answers to the test set by adapter (None: the base model).

    `settings` are all of the run's, as they were written down; `task` and `selection` are sections of it, None where
    this version cannot read them.
    """

    path: Path
    settings: Mapping[str, Any]
    task: TaskConfig | None
    selection: SelectionConfig | None
    rounds: tuple[StoredRound, ...]
    tests: Mapping[str | None, tuple[Outcome, ...]]
    summary: Mapping[str, Any]
    sweep: tuple[SweepPoint, ...]
    problems: tuple[str, ...]


def read_run(path: Path, sweep: Path | None = None) -> StoredRun:
    """Everything of the run in `path`; `sweep` is a directory whose sweep.json is read instead of the run's.

    Raises:
        DataError: `path` is not a run directory, or `sweep` holds no readable sweep.json.
    """
    directory, reader = RunDirectory(path), _Reader()
    identity = directory.identity()
    rounds = tuple(_round(number, files, directory, reader) for number, files in directory.rounds())
    adapters = [None, *(each.result.adapter for each in rounds if each.result)]
    found = {name: reader.read(partial(directory.test_outcomes, name)) for name in adapters}
    summary = reader.read(lambda: _object(path / "summary.json")) if (path / "summary.json").exists() else None
    if sweep is not None:
        points: tuple[SweepPoint, ...] | None = _sweep(sweep / SWEEP_FILE)
    else:
        points = reader.read(lambda: _sweep(path / SWEEP_FILE)) if (path / SWEEP_FILE).exists() else None
    return StoredRun(
        path=path,
        settings=identity["config"] if isinstance(identity["config"], dict) else {},
        task=reader.read(lambda: _section(TaskConfig, "task", identity, path)),
        selection=reader.read(lambda: _section(SelectionConfig, "selection", identity, path)),
        rounds=rounds,
        tests={name: tuple(outcomes) for name, outcomes in found.items() if outcomes},
        summary=summary or {},
        sweep=points or (),
        problems=tuple(reader.problems),
    )


class _Reader:
    """Reads parts, each of which may be damaged."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def read(self, part: Callable[[], Value | None]) -> Value | None:
        """The part, or None where it is not there or cannot be read: then the reason is among the problems."""
        try:
            return part()
        except (DataError, OSError) as error:
            self.problems.append(f"Left out: {error}")
        return None


def _round(number: int, files: RoundDirectory, directory: RunDirectory, reader: _Reader) -> StoredRound:
    result = reader.read(files.result)
    labels = reader.read(files.pseudo_labels) or []
    reasons = reader.read(files.reasons) if labels else None
    incumbent, candidate = reader.read(files.outcomes) or ([], [])
    return StoredRound(
        number=number,
        result=result,
        labels=tuple(labels),
        reasons=reasons or {},
        incumbent=tuple(incumbent),
        candidate=tuple(candidate),
        losses=_logged_losses(files) or _first_and_last_loss(directory, result, reader),
        shown=reader.read(lambda: _shown(files)) or {},
        standing="" if result else _standing(files, len(labels), bool(candidate)),
    )


def _standing(files: RoundDirectory, labelled: int, evaluated: bool) -> str:
    if (files.path / "round.json").exists():
        return "round.json cannot be read"
    if evaluated:
        return "evaluated, not decided"
    progress = read_progress(files.work)
    if progress is not None:
        return f"training: {progress.get('state')}, step {progress.get('step')} of {progress.get('total_steps')}"
    return f"{labelled} queries labelled, not trained" if labelled else "not labelled and not trained"


def _logged_losses(files: RoundDirectory) -> tuple[tuple[int, float], ...]:
    """The loss of every step, as the training logged it; a line that a kill left unfinished is passed over."""
    found: dict[int, float] = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (files.work / LOSSES_FILE).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                found[int(row["step"])] = float(row["loss"])
    return tuple(sorted(found.items()))


def _first_and_last_loss(
    directory: RunDirectory, result: RoundResult | None, reader: _Reader
) -> tuple[tuple[int, float], ...]:
    """The loss of the first and the last step, as the adapter's manifest has them; () where it has none."""
    if result is None or result.adapter is None or not (directory.adapters / result.adapter / MANIFEST_FILE).exists():
        return ()
    return reader.read(partial(_losses, directory.adapters / result.adapter / MANIFEST_FILE)) or ()


def _losses(path: Path) -> tuple[tuple[int, float], ...]:
    try:
        training = Manifest.from_json(path.read_text(encoding="utf-8")).training
        recorded = [(1, training["first_loss"]), (int(training["steps"]), training["last_loss"])]
        return tuple((step, float(loss)) for step, loss in dict(recorded).items())
    except KeyError:
        return ()
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: is not an adapter's manifest ({error})") from None


def _shown(files: RoundDirectory) -> dict[str, tuple[str, str]]:
    if not files.snapshot.exists():
        return {}
    _, rows = read_snapshot(files.snapshot)
    return {
        row.id: (row.messages[-1].content, row.completion) for row in rows if row.kind == "example" and row.messages
    }


def _section(kind: type[Model], name: str, identity: Mapping[str, Any], path: Path) -> Model:
    """One section of the settings: the others need not be whole, `claim` leaves secrets and the like out."""
    settings = identity["config"]
    try:
        return kind.model_validate(settings.get(name, {}) if isinstance(settings, dict) else settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("config", name, *first["loc"])))
        raise DataError(
            f"{path / 'run.json'}: field {where!r}: {first['msg']}; what follows from it is not shown"
        ) from None


def _object(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object")
    return found


def _sweep(path: Path) -> tuple[SweepPoint, ...]:
    try:
        return sweep_from_json(path.read_text(encoding="utf-8-sig"))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give the directory that holds {SWEEP_FILE}") from None
