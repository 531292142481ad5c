"""The files of a run: what each finished step of each round leaves behind.

    RUN/run.json                       configuration and hashes of the data: whose directory this is
    RUN/answers.jsonl                  what the engine answered, until the run is finished (see engines.answer_file)
    RUN/adapters/NAME/                 adapter versions (see adapter_directory)
    RUN/adapted/                       the training on the queries' text; only with training.adapt_epochs
    RUN/round-0002/pseudo_labels.jsonl every pseudo-label, with `selected` or the reason why not
    RUN/round-0002/calibration.jsonl   those of the calibration examples; only with selection.risk
    RUN/round-0002/learned.json        the model of the confidence; only with selection.by: learned
    RUN/round-0002/vote.json           what the panel's words were worth; only with labelling.panel
    RUN/panel/                         trainings of the panel's adapters
    RUN/round-0002/folds/              trainings of the folds that it was learned from
    RUN/round-0002/left_out.jsonl      the queries that got none, with the reason; only where there are any
    RUN/round-0002/snapshot/           job.json and rows.jsonl: all that the trainer reads
    RUN/round-0002/outcomes.jsonl      what incumbent and candidate answered to the holdout
    RUN/round-0002/round.json          the result; written last
    RUN/test/NAME.jsonl                what an adapter (base: the base model) answered to the test set
    RUN/summary.json                   what `semievol evolve` printed

Owns names and formats. Invariant: every file but that of the answers appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from semievol.config.method import MethodConfig
from semievol.durable_files import write_durably
from semievol.errors import ConfigError, DataError
from semievol.examples.files import read_pseudo_labels, write_jsonl
from semievol.examples.records import example_to_json, pseudo_label_to_json, query_to_json
from semievol.file_lock import FileLock
from semievol.labelling.certificate import Certificate
from semievol.labelling.learned import Learned
from semievol.labelling.selection import Selection
from semievol.labelling.vote import Vote
from semievol.proof.gate import GateResult, SliceResult
from semievol.training.fitting import processes_count
from semievol.types import Example, Outcome, PseudoLabel, Query, Unlabelled

Kind = Literal["warm", "evolve"]
Found = TypeVar("Found")

LOCK_FILE = "run.lock"
"""Held by the one run that writes into a directory."""


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What one round did. `incumbent` and `adapter` are names; `seconds` is by step.

    `incumbent` None is the base model. `adapter` None: nothing was trained, for the reason in the gate's result.
    `certificate`: of what was selected, where a risk was stated. `theta`: the quantile that was selected, where one
    decided. `training`: the numbers that the adapter was trained with.
    """

    number: int
    kind: Kind
    incumbent: str | None
    adapter: str | None
    labelled: int
    selected: int
    threshold: float | None
    rows: int
    gate: GateResult
    seconds: dict[str, float] = field(default_factory=dict)
    certificate: Certificate | None = None
    theta: float | None = None
    training: Mapping[str, float] = field(default_factory=dict)

    @property
    def promoted(self) -> bool:
        return self.gate.decision == "promote"

    @property
    def serving(self) -> str | None:
        """The adapter that answers after this round."""
        return self.adapter if self.promoted else self.incumbent

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "promoted": self.promoted, "serving": self.serving}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RoundResult:
        gate = dict(values["gate"])
        gate["slices"] = tuple(SliceResult(**part) for part in gate["slices"])
        known = {key: value for key, value in values.items() if key not in ("gate", "promoted", "serving")}
        found = values.get("certificate")
        return cls(**{**known, "certificate": None if found is None else Certificate(**found)}, gate=GateResult(**gate))


@dataclass(frozen=True, slots=True)
class RoundDirectory:
    """The files of one round."""

    path: Path

    @property
    def snapshot(self) -> Path:
        return self.path / "snapshot"

    @property
    def work(self) -> Path:
        """Checkpoints of the training."""
        return self.path / "work"

    def result(self) -> RoundResult | None:
        """The round's result, or None while it is not finished."""
        path = self.path / "round.json"
        if not path.exists():
            return None
        try:
            return RoundResult.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}: is not the result of a round ({error!r}); delete the round to run it again"
            ) from None

    def write_result(self, result: RoundResult) -> None:
        write_durably(self.path / "round.json", json.dumps(result.to_json(), indent=1) + "\n")

    def pseudo_labels(self) -> list[PseudoLabel] | None:
        """The round's pseudo-labels, or None before labelling has finished."""
        path = self.path / "pseudo_labels.jsonl"
        return read_pseudo_labels(path) if path.exists() else None

    def write_pseudo_labels(self, labels: Sequence[PseudoLabel], selection: Selection) -> None:
        write_jsonl(self.path / "pseudo_labels.jsonl", labelled_rows(labels, selection))

    def calibration(self) -> list[PseudoLabel]:
        """The pseudo-labels of the calibration examples; none where no risk was stated."""
        path = self.path / "calibration.jsonl"
        return read_pseudo_labels(path) if path.exists() else []

    def write_calibration(self, labels: Sequence[PseudoLabel]) -> None:
        """Written before `write_pseudo_labels`, which says that labelling is finished; no file where there is none."""
        path = self.path / "calibration.jsonl"
        if labels:
            write_jsonl(path, map(pseudo_label_to_json, labels))
        else:
            path.unlink(missing_ok=True)

    def learned(self) -> Learned | None:
        """The model of the confidence, or None where none was learned.

        Raises:
            DataError: the file is damaged.
        """
        return self._found("learned.json", Learned.from_json, "is no learned confidence")

    def vote(self) -> Vote | None:
        """What the panel's words were worth, or None where there was no panel.

        Raises:
            DataError: the file is damaged.
        """
        return self._found("vote.json", Vote.from_json, "is no vote of a panel")

    def _found(self, name: str, of: Callable[[Any], Found], what: str) -> Found | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            return of(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}: {what} ({error!r}); delete it to learn it again") from None

    def write_vote(self, vote: Vote) -> None:
        write_durably(self.path / "vote.json", json.dumps(vote.to_json(), indent=1) + "\n")

    def write_learned(self, learned: Learned) -> None:
        write_durably(self.path / "learned.json", json.dumps(learned.to_json(), indent=1) + "\n")

    def write_left_out(self, left_out: Sequence[Unlabelled]) -> None:
        """Queries that got no pseudo-label, each with its reason; no file where there is none."""
        path = self.path / "left_out.jsonl"
        if left_out:
            write_jsonl(path, map(left_out_row, left_out))
        else:
            path.unlink(missing_ok=True)

    def left_out(self) -> dict[str, str]:
        """The reasons by query id."""
        path = self.path / "left_out.jsonl"
        return {str(row["id"]): str(row["reason"]) for row in _rows(path, "reason")} if path.exists() else {}

    def reasons(self) -> dict[str, str | None]:
        """Why each pseudo-label was not selected, by query id; None: it was selected."""
        path = self.path / "pseudo_labels.jsonl"
        return {str(row["id"]): None if row.get("selected") else str(row.get("reason")) for row in _rows(path)}

    def outcomes(self) -> tuple[list[Outcome], list[Outcome]] | None:
        """What incumbent and candidate answered to the holdout, or None before the evaluation has finished.

        Raises:
            DataError: naming file and line.
        """
        path = self.path / "outcomes.jsonl"
        if not path.exists():
            return None
        rows = list(_rows(path, "role"))
        return (
            [_outcome(row, path) for row in rows if row["role"] == "incumbent"],
            [_outcome(row, path) for row in rows if row["role"] == "candidate"],
        )

    def write_outcomes(self, incumbent: Sequence[Outcome], candidate: Sequence[Outcome]) -> None:
        rows = [outcome_row(outcome, role="incumbent") for outcome in incumbent]
        rows += [outcome_row(outcome, role="candidate") for outcome in candidate]
        write_jsonl(self.path / "outcomes.jsonl", rows)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The directory of one run."""

    path: Path
    adapters_at: Path | None = None
    """Where adapters are published; None: in the run's own directory."""

    @property
    def adapters(self) -> Path:
        return self.adapters_at or self.path / "adapters"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only run that writes here; the kernel takes the lock back however the process ends.

        Raises:
            ConfigError: another one does.
        """
        with locked_directory(self.path):
            yield

    def round(self, number: int) -> RoundDirectory:
        """The files of round `number` (1 is the warm round); the directory is made."""
        directory = RoundDirectory(self.path / f"round-{number:04d}")
        directory.path.mkdir(parents=True, exist_ok=True)
        return directory

    def rounds(self) -> list[tuple[int, RoundDirectory]]:
        """The rounds that have begun, in order; nothing is made."""
        found = [path for path in self.path.glob("round-*") if path.is_dir() and path.name[6:].isdigit()]
        return sorted(((int(path.name[6:]), RoundDirectory(path)) for path in found), key=lambda pair: pair[0])

    def identity(self) -> Mapping[str, Any]:
        """What `claim` wrote down.

        Raises:
            DataError: this is not the directory of a run.
        """
        path = self.path / "run.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"{self.path}: is not a run directory (run.json: {error.strerror or error}); give the directory that "
                "`semievol evolve --out` wrote"
            ) from None
        except ValueError as error:
            raise DataError(f"{path}: is not valid JSON ({error}); give another run directory") from None
        if not isinstance(found, dict) or "config" not in found:
            raise DataError(f"{path}: field 'config': missing; give the directory that `semievol evolve --out` wrote")
        return found

    def test_outcomes(self, adapter: str | None) -> list[Outcome] | None:
        """What an adapter (None: the base model) answered to the test set, or None where it was not tested.

        Raises:
            DataError: naming file and line.
        """
        path = self._test_path(adapter)
        return [_outcome(row, path) for row in _rows(path)] if path.exists() else None

    def write_test_outcomes(self, adapter: str | None, outcomes: Sequence[Outcome]) -> None:
        path = self._test_path(adapter)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, [outcome_row(outcome) for outcome in outcomes])

    def _test_path(self, adapter: str | None) -> Path:
        return self.path / "test" / f"{adapter or 'base'}.jsonl"

    def claim(
        self,
        config: MethodConfig,
        examples: Iterable[Example],
        holdout: Iterable[Example],
        queries: Iterable[Query],
        calibration: Iterable[Example] = (),
    ) -> None:
        """Write down whose directory this is, or check that it is ours.

        Raises:
            ConfigError: it holds a run with another configuration or other data.
        """
        identity = {
            "config": decisive_settings(config),
            "examples": records_hash(map(example_to_json, examples)),
            "holdout": records_hash(map(example_to_json, holdout)),
            "queries": records_hash(map(query_to_json, queries)),
        }
        if calibrated := list(map(example_to_json, calibration)):
            identity["calibration"] = records_hash(calibrated)
        claim_directory(self.path / "run.json", identity, "a run")


@contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """Hold the lock on a directory of results.

    Raises:
        ConfigError: another process holds it.
    """
    lock = FileLock.take(path / LOCK_FILE)
    if lock is None:
        raise ConfigError(f"{path}: another run writes there; wait for it, or use another directory")
    with lock:
        yield


def claim_directory(path: Path, identity: Mapping[str, Any], what: str) -> None:
    """Write down in `path` whose directory it stands in, or check that it is ours.

    Raises:
        ConfigError: it holds `what` with other settings or other data.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(identity, indent=1) + "\n")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: is not valid JSON ({error}); use another directory") from None
    different = [key for key, value in identity.items() if not isinstance(found, dict) or found.get(key) != value]
    if different:
        raise ConfigError(
            f"{path.parent}: holds {what} with other {', '.join(different)}; use another directory, or delete this one"
        )


def labelled_rows(labels: Sequence[PseudoLabel], selection: Selection) -> list[dict[str, Any]]:
    """Pseudo-labels as JSON rows, each with `selected` and, where not selected, the `reason`."""
    kept = frozenset(selection.kept)
    rows = []
    for label in labels:
        row = {**pseudo_label_to_json(label), "selected": label.query.id in kept}
        if label.query.id not in kept:
            row["reason"] = selection.rejected[label.query.id]
        rows.append(row)
    return rows


def left_out_row(outcome: Unlabelled) -> dict[str, Any]:
    """A query without a pseudo-label as a JSON row."""
    return {"id": outcome.query.id, "reason": outcome.reason, "late": outcome.late}


def outcome_row(outcome: Outcome, **extra: str) -> dict[str, Any]:
    """An outcome as a JSON row; an infinite entropy is null, for JSON has none."""
    return {**extra, **asdict(outcome), "entropy": outcome.entropy if math.isfinite(outcome.entropy) else None}


def decisive_settings(config: MethodConfig) -> dict[str, Any]:
    """The settings that decide what a run makes: no secrets, no addresses, no logs, and nothing of how many threads,
    processes, connections and prompts at a time compute it.

    A server may have moved, a job be given more time and a training more processes before a killed run goes on; the
    processes count only where `batch_size: auto` makes a batch larger for their sake.
    """
    reach = {"replicas", "base_url", "api_key", "concurrency", "timeout_s", "max_batch", "threads"}
    patience = {"base_url", "api_key", "poll_interval_s", "timeout_s", "cancel_on_interrupt"}
    logs = ("log_to", "log_steps", "tensorboard_directory", "mlflow_uri")
    exclude: dict[str, Any] = {
        "data": True,  # how files are read; what was read is compared by itself
        "task": {"answer_index"},
        "embedding": {"api_key", "base_url", "batch_size"},
        "generation": reach,
        "models": dict.fromkeys(config.models, reach),
        "training": {"openai_api": patience, **dict.fromkeys(("threads", "processes", "inherit", *logs), True)},
    }
    if processes_count(config.training):
        exclude["training"].pop("processes")
    # Directories from before there were these stay as they are.
    new = {"risk": config.selection.risk is None, "learned": config.selection.by != "learned"}
    exclude["selection"] = {name for name, off in new.items() if off}
    exclude["labelling"] = {name for name in ("probe", "panel") if getattr(config.labelling, name) is None}
    if not config.training.adapt_epochs:
        exclude["training"] |= dict.fromkeys(("adapt_epochs", "adapt_learning_rate"), True)
    return config.model_dump(mode="json", exclude=exclude)


def _rows(path: Path, *needed: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of one a line, each with `id` and what else is needed."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run `semievol evolve` again") from None
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path}:{line}: is not valid JSON ({error}); run `semievol evolve` again") from None
        for name in ("id", *needed):
            if not isinstance(row, dict) or name not in row:
                raise DataError(f"{path}:{line}: field {name!r}: missing; run `semievol evolve` again")
        yield row


def _outcome(row: dict[str, Any], path: Path) -> Outcome:
    known = {each.name: row[each.name] for each in fields(Outcome) if each.name in row}
    try:
        entropy = math.inf if known["entropy"] is None else float(known["entropy"])
        return Outcome(**{**known, "entropy": entropy})
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: id {row['id']!r}: is not an outcome ({error!r}); run `semievol evolve` again"
        ) from None


def records_hash(rows: Iterable[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
