"""What `semievol evolve|label|train|eval` do: build the parts from a configuration, run them, summarise as plain JSON.

Owns the composition for runs on files (what answers and what trains: commands.engine; an in-memory index). Does not
print: see cli. Heavy imports happen inside the functions that need them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semievol.commands.engine import check_evolvable, open_generator, trainer_of
from semievol.config.method import MethodConfig
from semievol.durable_files import write_durably
from semievol.errors import ConfigError, DataError
from semievol.examples.files import read_answers, read_examples, read_pseudo_labels, read_queries, write_jsonl
from semievol.examples.records import example_of
from semievol.examples.split import is_holdout
from semievol.labelling.consensus import heard
from semievol.proof.evaluation import Evaluation, evaluate, precision
from semievol.recipe import Run, Watcher, evolve, make_training_job, select_labels
from semievol.runs.directory import Kind, RoundResult, RunDirectory, labelled_rows, outcome_row
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.tasks.text import token_f1
from semievol.training.job import write_snapshot
from semievol.types import Example, Query

if TYPE_CHECKING:
    from semievol.examples.index import QdrantExampleIndex
    from semievol.protocols import Embedder, Generator


def split_examples(examples: Sequence[Example], share: float) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(examples to retrieve and train on, holdout), decided by each id alone."""
    kept = tuple(example for example in examples if not is_holdout(example.id, share))
    return kept, tuple(example for example in examples if is_holdout(example.id, share))


@dataclass(frozen=True, slots=True)
class EvolveFiles:
    """Files of `semievol evolve`. `test` is only evaluated on, at the end; `answers` only scores pseudo-labels."""

    examples: Path
    queries: Path
    out: Path
    test: Path | None = None
    answers: Path | None = None


async def run_evolve(
    config: MethodConfig, files: EvolveFiles, *, rounds: int, holdout_share: float, watcher: Watcher
) -> dict[str, Any]:
    """`semievol evolve`: warm and evolve rounds in the run directory `files.out`."""
    check_evolvable(config)
    task = Task(config.task)
    train_examples, holdout = split_examples(read_examples(files.examples, task), holdout_share)
    if not train_examples:
        raise DataError(f"{files.examples}: leaves no example to train on; add some or lower --holdout")
    unlabeled = read_queries(files.queries, task)
    tested = read_examples(files.test, task) if files.test else []
    truth = true_answers(files.answers, unlabeled, task) if files.answers else {}
    async with open_generator(config) as generator:
        embedder = _embedder(config) if _embeds(config, task) else None
        index = _index(embedder, train_examples) if embedder and _wants_neighbours(config) else None
        run = Run(
            config=config,
            task=task,
            generator=generator,
            index=index,
            trainer=trainer_of(config),
            examples=train_examples,
            holdout=holdout,
            queries=tuple(unlabeled),
            directory=RunDirectory(files.out),
            watcher=watcher,
            equality=AnswerEquality(task, embedder),
            embedder=embedder,
        )
        results = await evolve(run, rounds)
        summary: dict[str, Any] = {
            "examples": len(train_examples),
            "holdout": len(holdout),
            "queries": len(unlabeled),
            "serving": results[-1].serving,
            "rounds": [_round_summary(run, result, truth) for result in results],
        }
        if tested:
            summary["test"] = await _test(run, results, tested)
    write_durably(files.out / "summary.json", json.dumps(summary, indent=1) + "\n")
    return summary


def _round_summary(run: Run, result: RoundResult, truth: Mapping[str, Example]) -> dict[str, Any]:
    summary = result.to_json()
    labels = run.directory.round(result.number).pseudo_labels() if result.kind == "evolve" else None
    if labels and truth:
        kept = frozenset(select_labels(labels, run.config, result.number).kept)
        equality = run.equality or AnswerEquality(run.task)
        selected = [label for label in labels if label.query.id in kept]
        summary["precision"] = precision(labels, truth, equality)
        summary["selected_precision"] = precision(selected, truth, equality)
    return summary


def true_answers(path: Path, queries: Sequence[Query], task: Task) -> dict[str, Example]:
    """Those queries whose truth the file knows, with their canonical answers, by id.

    Raises:
        DataError: an answer is none of the task's.
    """
    given = read_answers(path)
    truth = {}
    for query in queries:
        if query.id in given:
            try:
                truth[query.id] = example_of(query, given[query.id], task)
            except DataError as error:
                raise DataError(f"{path.name}: id {query.id!r}: {error}") from None
    return truth


async def _test(run: Run, results: Sequence[RoundResult], tested: Sequence[Example]) -> dict[str, Any]:
    """Accuracy of the base model and of every round's adapter, closed book."""
    adapters: list[str | None] = [None, *(result.adapter for result in results)]
    accuracies = {}
    for adapter in adapters:
        if adapter is not None:
            await run.generator.load_adapter(adapter, run.directory.adapters / adapter)
        advance = run.watcher(f"test {adapter or 'base'}", len(tested))
        found = await evaluate(
            run.generator, run.task, tested, adapter, seed=run.config.seed, progress=advance, equality=run.equality
        )
        run.directory.write_test_outcomes(adapter, found.outcomes)
        accuracies[adapter or "base"] = {"accuracy": found.accuracy, "mean_entropy": found.mean_entropy}
    return accuracies


async def run_label(
    config: MethodConfig, examples: Path, queries: Path, out: Path, adapter: Path | None, watcher: Watcher
) -> dict[str, Any]:
    """`semievol label`: pseudo-labels of `queries`, with `selected` and reasons, in `out` (.jsonl)."""
    from semievol.labelling.collaboration import CollaborativeLabeller

    task = Task(config.task)
    labelled = read_examples(examples, task)
    unlabeled = read_queries(queries, task)
    _make_parent(out)
    async with open_generator(config) as generator:
        name = await _load(generator, adapter)
        embedder = _embedder(config) if _embeds(config, task) else None
        index = _index(embedder, labelled) if embedder and _wants_neighbours(config) else None
        equality = AnswerEquality(task, embedder)
        labeller = CollaborativeLabeller(generator, index, task, config.labelling, config.seed, equality=equality)
        labels = await labeller.label(unlabeled, name, progress=watcher("label", len(unlabeled)))
        labels = await asyncio.to_thread(heard, labels, labelled, config.labelling, embedder)
    selection = select_labels(labels, config)
    write_jsonl(out, labelled_rows(labels, selection))
    return {
        "out": str(out),
        "adapter": name,
        "labelled": len(labels),
        "selected": len(selection.kept),
        "threshold": selection.threshold,
        "unparseable": sum(label.answer is None for label in labels),
        "justified": sum(label.justified for label in labels),
        "prompt_tokens": sum(label.prompt_tokens for label in labels),
        "generated_tokens": sum(label.generated_tokens for label in labels),
    }


async def run_train(
    config: MethodConfig, examples: Path, pseudo_labels: Path | None, out: Path, parent: Path | None, watcher: Watcher
) -> dict[str, Any]:
    """`semievol train`: one adapter from examples and, where given, the pseudo-labels that selection keeps."""
    from semievol.labelling.propagation import training_rows

    trainer = trainer_of(config)
    task = Task(config.task)
    labelled = read_examples(examples, task)
    labels = read_pseudo_labels(pseudo_labels) if pseudo_labels else []
    kept = frozenset(select_labels(labels, config).kept)
    index = _index(_embedder(config), labelled) if config.training.neighbours_in_prompt else None
    chosen = [label for label in labels if label.query.id in kept]
    rows = training_rows(labelled, chosen, task, config.training, config.seed, index=index)
    kind: Kind = "evolve" if pseudo_labels else "warm"
    job = make_training_job(config, rows, number=0, kind=kind, parent=parent)
    write_snapshot(out / "snapshot", job, rows)
    path = await trainer(out / "snapshot", out / "work", out / "adapters", watcher("train (%)", 100))
    return {"adapter": path.name, "path": str(path), "rows": len(rows), "pseudo_labels": len(chosen)}


async def run_eval(
    config: MethodConfig,
    data: Path,
    adapter: Path | None,
    examples: Path | None,
    neighbours: int,
    out: Path | None,
    watcher: Watcher,
) -> dict[str, Any]:
    """`semievol eval`: accuracy on labelled data, closed book or with neighbours from `examples`."""
    if neighbours and examples is None:
        raise ConfigError("--neighbours: needs --examples, the file to retrieve from")
    task = Task(config.task)
    tested = read_examples(data, task)
    retrievable = read_examples(examples, task) if examples and neighbours else []
    if out is not None:
        _make_parent(out)
    async with open_generator(config, labels=False) as generator:
        name = await _load(generator, adapter)
        embedder = _embedder(config) if neighbours or task.embeds else None
        index = _index(embedder, retrievable) if embedder and neighbours else None
        found: Evaluation = await evaluate(
            generator,
            task,
            tested,
            name,
            index=index,
            neighbours=neighbours,
            seed=config.seed,
            progress=watcher("evaluate", len(tested)),
            equality=AnswerEquality(task, embedder),
        )
    if out is not None:
        write_jsonl(out, [outcome_row(outcome) for outcome in found.outcomes])
    return {
        "adapter": name,
        "neighbours": neighbours,
        "count": len(found.outcomes),
        "accuracy": found.accuracy,
        "unparseable": sum(outcome.answer is None for outcome in found.outcomes),
        "by_category": dict(found.by_category),
        **({"token_f1": _token_f1(found, tested)} if config.task.form == "short_answer" else {}),
    }


# --- parts ----------------------------------------------------------------------------------------------------------


async def _load(generator: Generator, adapter: Path | None) -> str | None:
    if adapter is None:
        return None
    await generator.load_adapter(adapter.name, adapter)
    return adapter.name


def _make_parent(out: Path) -> None:
    """Before the work begins: an output that cannot be written must not be noticed at the end."""
    out.parent.mkdir(parents=True, exist_ok=True)


def _wants_neighbours(config: MethodConfig) -> bool:
    shown = [configuration.neighbours for configuration in config.labelling.configurations]
    return max([*shown, config.training.neighbours_in_prompt]) > 0


def _embeds(config: MethodConfig, task: Task) -> bool:
    return _wants_neighbours(config) or config.labelling.consensus is not None or task.embeds


def _token_f1(found: Evaluation, examples: Sequence[Example]) -> float | None:
    """The mean overlap of words with the true answers; None without examples."""
    shares = [token_f1(o.answer, each.answers) for o, each in zip(found.outcomes, examples, strict=True)]
    return sum(shares) / len(shares) if shares else None


def _embedder(config: MethodConfig) -> Embedder:
    """One for all that a command embeds, each text once."""
    from semievol.examples.embedding.opening import build_embedder
    from semievol.examples.embedding.remembered import RememberedVectors

    return RememberedVectors(build_embedder(config.embedding))


def _index(embedder: Embedder, examples: Sequence[Example]) -> QdrantExampleIndex:
    from semievol.examples.index import QdrantExampleIndex

    index = QdrantExampleIndex(embedder, "examples")
    index.upsert(examples)
    return index
