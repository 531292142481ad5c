"""The method beside its peers and its own ablations: every row of the table, for one draw of the examples.

Owns how a row is trained and asked. The parts are the method's own (recipe, evaluation), so that what is measured is
what runs. As in the paper no gate stands between rounds: each round's adapter labels for the next. Invariants: all rows
of a seed see the same examples, queries and test questions; a training or an answer that two rows share is made once.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from semievol.comparison.rows import ComparedMethod
from semievol.durable_files import write_durably
from semievol.errors import ConfigError
from semievol.examples.files import write_jsonl
from semievol.examples.records import example_to_json, query_to_json
from semievol.examples.resident import ResidentExampleIndex
from semievol.examples.split import split_calibration
from semievol.labelling.probe import fitted
from semievol.labelling.propagation import training_rows
from semievol.proof.evaluation import Evaluation, evaluate, precision, summarise
from semievol.protocols import Embedder, ExampleIndex, Generator, Progress
from semievol.recipe import Clock, propose
from semievol.runs.directory import RunDirectory, claim_directory, decisive_settings, outcome_row, records_hash
from semievol.seeds import derive
from semievol.tasks.equality import AnswerEquality, is_correct
from semievol.tasks.task import Task
from semievol.teaching import Run, Trainer, Watcher, adapt, make_training_job, round_seed
from semievol.training.job import snapshot_hash, write_snapshot
from semievol.types import Example, Outcome, Query

RESULT_FILE = "result.json"
IDENTITY_FILE = "row.json"


@dataclass(frozen=True, slots=True)
class World:
    """What all rows of one seed share.

    truth: the queries with their true answers, which only the bound is trained on and only precision is counted with.
    neighbours: how many examples are shown when a row is asked with neighbours; 0: every row is asked closed book only.
    directory: of this seed.
    """

    task: Task
    generator: Generator
    trainer: Trainer
    dense: ExampleIndex | None
    bm25: ExampleIndex | None
    embedder: Embedder
    equality: AnswerEquality
    examples: tuple[Example, ...]
    queries: tuple[Query, ...]
    truth: Mapping[str, Example]
    tested: tuple[Example, ...]
    rounds: int
    neighbours: int
    directory: Path
    watcher: Watcher


async def run_method(method: ComparedMethod, world: World) -> dict[str, Any]:
    """One row: train it as it says, ask the test questions after every round; a finished row is read from its files.

    Returns:
        `{"name", "stages": [{"stage", "adapter", "closed_book"?, "open_book"?, "selected"?, "precision"?, ...}]}`;
        accuracies are those of the stage's adapter, and the last stage is the row's result.
    """
    directory = world.directory / method.name
    path = directory / RESULT_FILE
    claim_directory(directory / IDENTITY_FILE, _identity(method, world), "this row")
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    stages: list[dict[str, Any]] = []
    if method.trained_on == "nothing":
        stages.append(await _asked(method, world, "as it is", None, directory))
    elif method.trained_on == "vectors":
        stages.append(await asyncio.to_thread(_probed, world, directory))
    elif method.trained_on == "truth":
        adapter = await _train_on_truth(method, world, directory)
        stages.append(await _asked(method, world, "trained", adapter, directory))
    else:
        stages = await _rounds(method, world, directory)
    result = {"name": method.name, "stages": stages}
    write_durably(path, json.dumps(result, indent=1) + "\n")
    return result


async def _rounds(method: ComparedMethod, world: World, directory: Path) -> list[dict[str, Any]]:
    """The warm round, and the evolve rounds where the row has them."""
    run = _run(method, world, directory)
    stages: list[dict[str, Any]] = []
    incumbent: str | None = None
    first = 1 if method.warm else 2
    last = 1 if method.trained_on == "examples" else world.rounds + 1
    for number in range(first, last + 1):
        clock = Clock()
        proposal = await propose(run, number, incumbent, clock)
        if incumbent is not None:
            await world.generator.unload_adapter(incumbent)
        # Where nothing could be certified, nothing was trained: the adapter of before stays.
        adapter = incumbent if proposal.adapter is None else proposal.adapter
        stage = await _asked(method, world, f"round {number}", adapter, directory)
        if number > 1:
            kept = frozenset(proposal.selection.kept)
            stage |= {
                "labelled": len(proposal.labels),
                "selected": len(kept),
                "theta": proposal.selection.theta,
                "precision": precision(proposal.labels, world.truth, world.equality),
                "selected_precision": precision(
                    [label for label in proposal.labels if label.query.id in kept], world.truth, world.equality
                ),
            }
            if proposal.selection.certificate is not None:
                stage["certificate"] = asdict(proposal.selection.certificate)
        stages.append({**stage, "rows": proposal.rows, "training": dict(proposal.training), "seconds": clock.seconds})
        incumbent = adapter if method.warm else None
    return stages


def _run(method: ComparedMethod, world: World, directory: Path) -> Run:
    risk, index = method.config.selection.risk, world.dense
    examples: tuple[Example, ...] = world.examples
    calibration: tuple[Example, ...] = ()
    if risk is not None:
        examples, calibration = split_calibration(world.examples, risk.calibration_share)
        if world.dense is not None:
            index = ResidentExampleIndex(world.embedder)
            index.upsert(examples)
    return Run(
        config=method.config,
        task=world.task,
        generator=world.generator,
        index=index,
        trainer=world.trainer,
        examples=examples,
        calibration=calibration,
        holdout=(),
        queries=world.queries,
        directory=RunDirectory(directory, adapters_at=world.directory / "adapters"),
        embedder=world.embedder,
        equality=world.equality,
        watcher=_titled(world.watcher, method.title),
    )


async def _train_on_truth(method: ComparedMethod, world: World, directory: Path) -> str:
    """The bound: the examples and every query with its true answer, trained as an evolve round is."""
    config = method.config
    known = {example.id for example in world.examples}
    labelled = [*world.examples, *(world.truth[query.id] for query in world.queries if query.id not in known)]
    seed = round_seed(config, 2)
    rows = training_rows(labelled, [], world.task, config.training, seed, index=world.dense)
    watcher, adapters = _titled(world.watcher, method.title), world.directory / "adapters"
    start = await adapt(
        config,
        world.task,
        world.trainer,
        world.queries,
        held_out=(),
        at=directory / "adapted",
        adapters=adapters,
        watcher=watcher,
    )
    job = make_training_job(config, rows, number=2, kind="evolve", parent=start)
    write_snapshot(directory / "snapshot", job, rows)
    path = await world.trainer(directory / "snapshot", directory / "work", adapters, watcher("train (%)", 100))
    return path.name


def _probed(world: World, directory: Path) -> dict[str, Any]:
    """The answers of a logistic regression on the examples' vectors; blocking."""
    questions = [example.query.question for example in world.examples]
    probe = fitted(world.embedder.embed(questions), world.examples)
    vectors = world.embedder.embed([example.query.question for example in world.tested])
    chances = probe.whole.probabilities(vectors)
    answers = [probe.whole.answers[place] for place in chances.argmax(axis=1)]
    same = world.equality.among([*answers, *(gold for example in world.tested for gold in example.answers)])
    outcomes = [
        Outcome(
            example.id,
            example.answer,
            answer,
            is_correct(answer, example, same),
            -math.log(max(float(chance), 1e-300)),
            example.query.category,
        )
        for example, answer, chance in zip(world.tested, answers, chances.max(axis=1), strict=True)
    ]
    file = directory / "trained-closed_book.jsonl"
    write_jsonl(file, map(outcome_row, outcomes))
    return {
        "stage": "trained",
        "adapter": None,
        "closed_book": summarise(None, outcomes).accuracy,
        "closed_book_outcomes": file.name,
        "penalty": probe.penalty,
        "accuracy_out_of_fold": probe.accuracy,
    }


async def _asked(
    method: ComparedMethod, world: World, stage: str, adapter: str | None, directory: Path
) -> dict[str, Any]:
    """The test questions, closed book and with neighbours, as the row is asked; outcomes go to files."""
    if adapter is not None:
        await world.generator.load_adapter(adapter, world.directory / "adapters" / adapter)
    result: dict[str, Any] = {"stage": stage, "adapter": adapter}
    forms = [("closed_book", 0)] if method.closed_book else []
    forms += [("open_book", world.neighbours)] if method.open_book and world.neighbours else []
    for name, neighbours in forms:
        found: Evaluation = await evaluate(
            world.generator,
            world.task,
            world.tested,
            adapter,
            index=world.bm25 if method.retrieval == "bm25" else world.dense,
            neighbours=neighbours,
            seed=method.config.seed,
            equality=world.equality,
            progress=world.watcher(f"{method.title}: {stage}, {name.replace('_', ' ')}", len(world.tested)),
        )
        file = directory / f"{stage.replace(' ', '-')}-{name}.jsonl"
        write_jsonl(file, [outcome_row(outcome) for outcome in found.outcomes])
        result[name] = found.accuracy
        if found.left_out:
            result[f"{name}_left_out"] = dict(found.left_out)
        result[f"{name}_outcomes"] = file.name
    if adapter is not None:
        await world.generator.unload_adapter(adapter)
    return result


def _identity(method: ComparedMethod, world: World) -> dict[str, Any]:
    """What the row's result depends on: settings that decide, and the content of the files."""
    taught = method.trained_on == "truth"
    config = decisive_settings(method.config)
    if method.trained_on != "rounds":
        # No pseudo-label comes near it, so that it stays when labelling or selection is set otherwise.
        config = {name: values for name, values in config.items() if name not in ("labelling", "selection")}
    return {
        "config": config,
        "method": {key: value for key, value in asdict(method).items() if key not in ("config", "title")},
        "rounds": world.rounds if method.trained_on == "rounds" else 0,
        "neighbours": world.neighbours if method.open_book else 0,
        "examples": records_hash(map(example_to_json, world.examples)),
        "queries": records_hash(map(query_to_json, world.queries)),
        "test": records_hash(map(example_to_json, world.tested)),
        "truth": records_hash(example_to_json(world.truth[key]) for key in sorted(world.truth)) if taught else None,
    }


def _titled(watcher: Watcher, title: str) -> Watcher:
    return lambda step, total: watcher(f"{title}: {step}", total)


# --- shared trainings -----------------------------------------------------------------------------------------------


class SharedTrainer:
    """A Trainer that trains equal snapshots once: several rows begin with the same warm adapter."""

    def __init__(self, trainer: Trainer, directory: Path) -> None:
        self._trainer = trainer
        self._directory = directory

    async def __call__(self, snapshot: Path, work: Path, adapters: Path, progress: Progress) -> Path:
        return await self._trainer(snapshot, self._directory / snapshot_hash(snapshot)[:16], adapters, progress)


Record = TypeVar("Record", Query, Example)


def drawn(records: Sequence[Record], count: int, seed: int, purpose: str) -> list[Record]:
    """`count` of the records, drawn by the seed for this purpose, in their order."""
    ranked = sorted((record.id for record in records), key=lambda each: derive(seed, purpose, each))
    kept = set(ranked[:count])
    return [record for record in records if record.id in kept]


def drawn_examples(examples: Sequence[Example], per_answer: int | None, seed: int) -> tuple[Example, ...]:
    """At most `per_answer` examples of each answer, drawn by the seed, in the order of the file; None: all."""
    if per_answer is None:
        return tuple(examples)
    ranked = sorted(examples, key=lambda example: derive(seed, "draw", example.id))
    taken: dict[str, int] = {}
    kept = set()
    for example in ranked:
        if taken.get(example.answer, 0) < per_answer:
            taken[example.answer] = taken.get(example.answer, 0) + 1
            kept.add(example.id)
    return tuple(example for example in examples if example.id in kept)


def with_ratio(queries: Sequence[Query], examples: int, ratio: float, seed: int) -> tuple[Query, ...]:
    """`ratio` times as many queries as there are examples, drawn by the seed, in the order of the file.

    Raises:
        ConfigError: there are not so many.
    """
    count = round(ratio * examples)
    if not 0 < count <= len(queries):
        most = len(queries) / max(examples, 1)
        raise ConfigError(
            f"--sweep ratio={ratio:g}: {examples} examples and {len(queries)} queries allow up to {most:.2g}"
        )
    return tuple(drawn(queries, count, seed, "ratio"))
