"""What is taught in a run on files, and what a run is: the trainings of its rounds and those beside them.

Owns how a training is described (`make_training_job`), and the trainings that no round proposes: the first pass over
what the queries say (`adapted`), the adapters of folds and those of the panel. Owns not the order of a round (recipe).
Invariants: a training that would start afresh starts from what the queries' text made, where that is wanted; no
held-out question is read.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from semievol.adapter_directory import verify
from semievol.config.method import MethodConfig
from semievol.labelling.out_of_fold import Views
from semievol.labelling.panel import Seat, seats_of
from semievol.labelling.propagation import text_rows, training_rows
from semievol.protocols import Embedder, ExampleIndex, Generator, Progress
from semievol.runs.directory import Kind, RunDirectory
from semievol.seeds import derive
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.training.fitting import Extent, fitted
from semievol.training.job import JOB_FILE, TrainingJob, write_snapshot
from semievol.types import Example, PseudoLabel, Query, TrainingRow

logger = logging.getLogger(__name__)

WORKLOAD = "files"
FINGERPRINT_PROMPTS = 4


class Trainer(Protocol):
    """Turns a snapshot directory into an adapter directory under `adapters`, resuming from `work`.

    `progress` is told each further percent that is done.
    """

    async def __call__(self, snapshot: Path, work: Path, adapters: Path, progress: Progress) -> Path: ...


class Watcher(Protocol):
    """Is told which step begins and how many items it has; what it returns is called as items finish."""

    def __call__(self, step: str, total: int) -> Progress: ...


def no_watcher(step: str, total: int) -> Progress:
    """Shows nothing."""
    return lambda count: None


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that the rounds of one run share.

    `examples` may be retrieved and trained on; `holdout` is only evaluated on; the index holds `examples` alone.
    `calibration` is answered like queries, for selection at a stated risk (`selection.risk`); empty without one.
    `embedder` is needed for the consensus of pseudo-labels.
    `equality` None: what the task says by itself, without an embedder.
    """

    config: MethodConfig
    task: Task
    generator: Generator
    index: ExampleIndex | None
    trainer: Trainer
    examples: tuple[Example, ...]
    holdout: tuple[Example, ...]
    queries: tuple[Query, ...]
    directory: RunDirectory
    embedder: Embedder | None = None
    watcher: Watcher = no_watcher
    equality: AnswerEquality | None = None
    calibration: tuple[Example, ...] = ()


def round_seed(config: MethodConfig, number: int) -> int:
    """The seed of one round; every random choice in it derives from this."""
    return derive(config.seed, "round", number)


def make_training_job(
    config: MethodConfig,
    rows: Sequence[TrainingRow],
    *,
    number: int,
    kind: Kind | Literal["adapt"],
    parent: Path | None,
) -> TrainingJob:
    """What the trainer is told: one round's settings, with rate and epochs of its kind.

    `parent` is the adapter directory to continue from; None starts afresh.
    """
    closed = config.task.closed and kind != "adapt"  # the texts of queries are no answers
    extent = Extent.of(rows, config.training.max_tokens, closed=closed)
    found = fitted(config.training, kind, extent, config.model.name, parent)
    if found.why is not None:
        logger.info("round %d: %s, for %s", number, found.said(), found.why)
    return TrainingJob(
        workload=WORKLOAD,
        round_number=number,
        kind=kind,
        seed=round_seed(config, number),
        model=config.model,
        training=found.training,
        learning_rate=found.learning_rate,
        epochs=found.epochs,
        parent=None if parent is None else parent.resolve(),
        name_prefix=f"r{number:04d}",
        fingerprint_prompts=tuple(row.messages for row in rows[:FINGERPRINT_PROMPTS]),
    )


async def adapted(run: Run) -> Path | None:
    """Where the run's trainings start that would else start afresh; see `adapt`."""
    return await adapt(
        run.config,
        run.task,
        run.trainer,
        run.queries,
        held_out=(*run.holdout, *run.calibration),
        at=run.directory.path / "adapted",
        adapters=run.directory.adapters,
        watcher=run.watcher,
    )


async def adapt(
    config: MethodConfig,
    task: Task,
    trainer: Trainer,
    queries: Sequence[Query],
    *,
    held_out: Collection[Example],
    at: Path,
    adapters: Path,
    watcher: Watcher,
) -> Path | None:
    """The adapter that has read what the queries say, and no answer; a finished training is not done again.

    Args:
        config: `training.adapt_epochs`; at 0 there is none.
        task: writes the queries as prompts.
        trainer: trains.
        queries: what is read.
        held_out: what must not be read.
        at: directory of the training.
        adapters: where it is published.
        watcher: is told.

    Raises:
        DataError: there is no query to read.
    """
    if not config.training.adapt_epochs:
        return None
    rows = text_rows(queries, task, held_out)
    job = make_training_job(config, rows, number=0, kind="adapt", parent=None)
    # It serves nobody, so that nobody will ask for its fingerprint.
    job = replace(job, name_prefix="adapted", fingerprint_prompts=())
    write_snapshot(at / "snapshot", job, rows)
    return await trainer(at / "snapshot", at / "work", adapters, watcher("adapt to the queries (%)", 100))


def adapted_before(adapter: Path) -> Path | None:
    """What an adapter started from, where that has read the queries alone (`adapt`); None: from elsewhere.

    Raises:
        AdapterError: either is not whole.
    """
    name = verify(adapter).parent
    if name is None:
        return None
    parent = adapter.parent / name
    return parent if verify(parent).training.get("kind") == "adapt" else None


def views_of(run: Run, number: int) -> Views:
    """What answers in a round, for examples to be asked as queries are."""
    return Views(
        generator=run.generator,
        task=run.task,
        labelling=run.config.labelling,
        equality=run.equality or AnswerEquality(run.task),
        embedder=run.embedder,
        seed=round_seed(run.config, number),
        closed=run.config.task.closed,
    )


@dataclass(frozen=True, slots=True)
class Folds:
    """Adapters that are taught as the one that labels was, each without the examples of one fold.

    kept: the pseudo-labels that it was taught beside the examples, with the `number` and `kind` of its round.
    start: the adapter directory that it started from, where that is known to have learned no answer; else None.
    held_out: what must not be learned beside the fold. directory: of the trainings; adapters: where they are published.
    """

    config: MethodConfig
    views: Views
    trainer: Trainer
    watcher: Watcher
    directory: Path
    adapters: Path
    number: int = 1
    kind: Kind = "warm"
    kept: tuple[PseudoLabel, ...] = ()
    held_out: tuple[Example, ...] = ()
    start: Path | None = None

    @classmethod
    def before(cls, run: Run, number: int, start: Path | None = None) -> Folds:
        """As the incumbent of round `number` was taught: by the last round that trained."""
        taught = [each for each, of in run.directory.rounds() if each < number and (of.snapshot / JOB_FILE).exists()]
        files = run.directory.round(max(taught))
        reasons = files.reasons() if max(taught) > 1 else {}
        return cls(
            config=run.config,
            views=views_of(run, number),
            trainer=run.trainer,
            watcher=lambda step, total: run.watcher(f"round {number}: {step}", total),
            directory=run.directory.round(number).path / "folds",
            adapters=run.directory.adapters,
            number=max(taught),
            kind="warm" if max(taught) == 1 else "evolve",
            kept=tuple(label for label in files.pseudo_labels() or () if reasons.get(label.query.id, "") is None),
            held_out=(*run.holdout, *run.calibration),
            start=start,
        )

    async def teach(self, fold: int, others: Sequence[Example], inside: Sequence[Example]) -> str:
        """Train and load the adapter of one fold; a finished training is not done again."""
        training = self.config.training
        rows = training_rows(
            others,
            self.kept,
            self.views.task,
            training,
            round_seed(self.config, self.number),
            index=self.views.index(others, training.neighbours_in_prompt),
            holdout=(*self.held_out, *inside),
        )
        job = make_training_job(self.config, rows, number=self.number, kind=self.kind, parent=self.start)
        at = self.directory / str(fold)
        write_snapshot(at / "snapshot", replace(job, name_prefix=f"{job.name_prefix}-fold{fold}"), rows)
        path = await self.trainer(at / "snapshot", at / "work", self.adapters, self.watcher(f"fold {fold} (%)", 100))
        await self.views.generator.load_adapter(path.name, self.adapters / path.name)
        return path.name

    async def forget(self, adapter: str) -> None:
        await self.views.generator.unload_adapter(adapter)


async def seated(run: Run, views: Views, start: Path | None) -> tuple[list[Seat], list[str]]:
    """The seats of the run's panel and their adapters; see `taught_seats`."""
    return await taught_seats(
        run.config,
        views,
        run.examples,
        run.trainer,
        held_out=(*run.holdout, *run.calibration),
        start=start,
        at=run.directory.path / "panel",
        adapters=run.directory.adapters,
        watcher=run.watcher,
    )


async def taught_seats(
    config: MethodConfig,
    views: Views,
    examples: Sequence[Example],
    trainer: Trainer,
    *,
    held_out: Collection[Example],
    start: Path | None,
    at: Path,
    adapters: Path,
    watcher: Watcher,
) -> tuple[list[Seat], list[str]]:
    """The seats of `labelling.panel` and their adapters, loaded; a finished training is not done again.

    Each is taught as the warm adapter is, by a seed of its own.

    Args:
        config: none are wanted without a panel.
        views: what answers.
        examples: the labelled ones.
        trainer: trains.
        held_out: what must not be learned.
        start: the adapter directory to continue from; None starts afresh.
        at: directory of the trainings.
        adapters: where they are published.
        watcher: is told.

    Raises:
        DataError: too few examples.
    """
    if config.labelling.panel is None:
        return [], []
    seats, names = seats_of(examples, config.labelling.panel), []
    for seat in seats:
        seed = derive(config.seed, "panel", str(seat.number))
        rows = training_rows(
            seat.others,
            [],
            views.task,
            config.training,
            seed,
            index=views.index(seat.others, config.training.neighbours_in_prompt),
            holdout=(*held_out, *seat.inside),
        )
        job = make_training_job(config, rows, number=1, kind="warm", parent=start)
        place = at / str(seat.number)
        write_snapshot(place / "snapshot", replace(job, seed=seed, name_prefix=f"panel{seat.number}"), rows)
        advance = watcher(f"panel {seat.number} (%)", 100)
        path = await trainer(place / "snapshot", place / "work", adapters, advance)
        await views.generator.load_adapter(path.name, adapters / path.name)
        names.append(path.name)
    return seats, names
