"""What `semievol evolve` does: the whole method on files, round by round, and what it came to as plain JSON.

Owns the composition of a run and its summary. Does not print: see cli.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semievol.commands.kept_answers import FILE, kept_answers
from semievol.commands.retrieval import embedder_of, embeds, index_over, wants_neighbours
from semievol.commands.trainer import check_evolvable, left_out_of_training, trainer_of
from semievol.config.method import MethodConfig
from semievol.durable_files import write_durably
from semievol.engines.opening import open_generator
from semievol.errors import DataError
from semievol.examples.choices import settled
from semievol.examples.files import read_examples, read_queries
from semievol.examples.split import split_calibration, split_examples
from semievol.examples.truth import true_answers
from semievol.labelling.learned import check_enough, said_of
from semievol.labelling.vote import told
from semievol.proof.evaluation import evaluate, precision
from semievol.recipe import evolve
from semievol.runs.directory import RoundResult, RunDirectory
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.teaching import Run, Watcher
from semievol.types import Example


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
    """`semievol evolve`: warm and evolve rounds in the run directory `files.out`.

    Raises:
        ConfigError: another run writes there, or the settings do not fit each other.
    """
    check_evolvable(config)
    config = settled(config, files.examples)
    task = Task(config.task)
    examples = read_examples(files.examples, task, config.data)
    risk = config.selection.risk
    others, calibration = split_calibration(examples, 0.0 if risk is None else risk.calibration_share)
    train_examples, holdout = split_examples(others, holdout_share, config.gate.min_holdout)
    if not train_examples:
        raise DataError(f"{files.examples}: leaves no example to train on; add some or lower --holdout")
    check_enough(config, len(train_examples))
    unlabeled = read_queries(files.queries, task, config.data)
    tested = read_examples(files.test, task, config.data) if files.test else []
    truth = true_answers(files.answers, unlabeled, task, config.data) if files.answers else {}
    async with AsyncExitStack() as stack:
        stack.enter_context(RunDirectory(files.out).locked())
        engine = await stack.enter_async_context(open_generator(config))
        kept = await stack.enter_async_context(kept_answers(engine, config, files.out / FILE))
        embedder = embedder_of(config) if embeds(config, task) else None
        index = index_over(embedder, train_examples) if embedder and wants_neighbours(config) else None
        run = Run(
            config=config,
            task=task,
            generator=kept.generator,
            index=index,
            trainer=trainer_of(config),
            examples=train_examples,
            holdout=holdout,
            queries=tuple(unlabeled),
            directory=RunDirectory(files.out),
            watcher=watcher,
            equality=AnswerEquality(task, embedder),
            embedder=embedder,
            calibration=calibration,
        )
        results = await evolve(run, rounds)
        summary: dict[str, Any] = {
            "examples": len(train_examples),
            "holdout": len(holdout),
            **({} if risk is None else {"calibration": len(calibration)}),
            "queries": len(unlabeled),
            "serving": results[-1].serving,
            "rounds": [_round_summary(run, result, truth) for result in results],
        }
        if tested:
            summary["test"] = await _test(run, results, tested)
        write_durably(files.out / "summary.json", json.dumps(summary, indent=1) + "\n")
        kept.no_longer_needed()
    return summary


def _round_summary(run: Run, result: RoundResult, truth: Mapping[str, Example]) -> dict[str, Any]:
    summary = result.to_json()
    if left_out := run.directory.round(result.number).left_out():
        summary["left_out"] = left_out
    if result.adapter and (unlearned := left_out_of_training(run.directory.adapters / result.adapter)):
        summary["left_out_of_training"] = unlearned
    labels = run.directory.round(result.number).pseudo_labels() if result.kind == "evolve" else None
    if labels and (model := run.directory.round(result.number).learned()) is not None:
        reasons = run.directory.round(result.number).reasons()
        summary["learned"] = said_of(model, labels, {key for key, reason in reasons.items() if reason is None})
    if labels and (vote := run.directory.round(result.number).vote()) is not None:
        reasons = run.directory.round(result.number).reasons()
        summary["panel"] = told(vote, labels, {key for key, reason in reasons.items() if reason is None})
    if labels and truth:
        reasons = run.directory.round(result.number).reasons()
        kept = frozenset(query_id for query_id, reason in reasons.items() if reason is None)
        equality = run.equality or AnswerEquality(run.task)
        selected = [label for label in labels if label.query.id in kept]
        summary["precision"] = precision(labels, truth, equality)
        summary["selected_precision"] = precision(selected, truth, equality)
    return summary


async def _test(run: Run, results: Sequence[RoundResult], tested: Sequence[Example]) -> dict[str, Any]:
    """Accuracy of the base model and of every round's adapter, closed book."""
    adapters = dict.fromkeys([None, *(result.adapter for result in results)])
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
