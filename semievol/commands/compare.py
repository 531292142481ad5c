"""What `semievol compare` does: every row for every seed, then the table with intervals, tests and error reductions.

Owns the composition and the files of a comparison: OUT/seed-N/ROW/ (see comparison), OUT/compare.json,
OUT/compare.csv, OUT/compare.md and, with sweeps, OUT/sweep.json. A finished row is not run again, so that a killed
comparison goes on, and seeds may be run by several processes at a time and put together by a last call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semievol.commands.compare_options import CompareOptions
from semievol.commands.kept_answers import FILE, kept_answers
from semievol.commands.retrieval import embedder_of, index_over
from semievol.commands.trainer import check_evolvable, trainer_of
from semievol.comparison.rows import ComparedMethod, all_methods, pick
from semievol.comparison.rows_run import SharedTrainer, World, drawn, drawn_examples, run_method
from semievol.comparison.sweep import averaged, sweep_points, swept
from semievol.comparison.table import as_csv, markdown, table
from semievol.config.method import MethodConfig
from semievol.durable_files import write_durably
from semievol.engines.opening import open_generator
from semievol.errors import ConfigError, DataError
from semievol.examples.choices import settled
from semievol.examples.files import read_examples, read_queries
from semievol.examples.truth import true_answers
from semievol.runs.directory import locked_directory
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.teaching import Watcher
from semievol.types import Example, Query

if TYPE_CHECKING:
    from semievol.protocols import Embedder, Generator


@dataclass(frozen=True, slots=True)
class CompareFiles:
    """Files of `semievol compare`. `answers`: true answers of the queries, for the bound and for precision."""

    examples: Path
    queries: Path
    test: Path
    out: Path
    answers: Path | None = None


async def run_compare(
    config: MethodConfig, files: CompareFiles, options: CompareOptions, watcher: Watcher
) -> dict[str, Any]:
    """Run what is not finished yet and summarise.

    Raises:
        ConfigError: an option does not fit the data or the settings, or another run writes what this one would.
        DataError: a file is unusable.
    """
    config = settled(config, files.examples)
    data = _read(config, files, options)
    methods = _methods(config, options, data)
    sweeps = sweep_points(config, options.sweeps or {})
    if any(method.trained_on not in ("nothing", "vectors") for method in methods) or sweeps:
        check_evolvable(config)
    shared = _Shared(files.out, options, data, embedder_of(config), watcher)
    results: dict[str, list[dict[str, Any]]] = {method.name: [] for method in methods}
    points: list[dict[str, Any]] = []
    for seed in options.seeds:
        with locked_directory(files.out / f"seed-{seed}"):  # seeds may run beside each other, each in one process
            seeded = config.model_copy(update={"seed": seed})
            async with open_generator(seeded) as engine, kept_answers(engine, seeded, _answers(files, seed)) as kept:
                world = shared.world(seeded, kept.generator)
                for method in methods:
                    own = replace(method, config=method.config.model_copy(update={"seed": seed}))
                    results[method.name].append(await run_method(own, world))
                points += await swept(seed, sweeps, world)
            for title, model in (options.models or {}).items():
                other = _with_model(seeded, model)
                async with (
                    open_generator(other, labels=False) as engine,
                    kept_answers(engine, other, _answers(files, seed)) as kept,
                ):
                    world = shared.world(other, kept.generator)
                    asked = ComparedMethod(f"model-{title}", title, other, "nothing")
                    results.setdefault(asked.name, []).append(await run_method(asked, world))
    titles = {method.name: method.title for method in methods}
    titles |= {f"model-{title}": title for title in options.models or {}}
    summary: dict[str, Any] = {
        "examples": len(drawn_examples(data.examples, options.per_answer, options.seeds[0])),
        "queries": len(data.queries),
        "tested": len(data.tested),
        "seeds": list(options.seeds),
        "rounds": options.rounds,
        "neighbours": options.neighbours,
        "rows": table(results, titles, options.seeds, files.out),
    }
    write_durably(files.out / "compare.json", json.dumps(summary, indent=1) + "\n")
    write_durably(files.out / "compare.csv", as_csv(summary["rows"]))
    write_durably(files.out / "compare.md", markdown(summary))
    for seed in options.seeds:
        _answers(files, seed).unlink(missing_ok=True)
    if points:
        write_durably(files.out / "sweep.json", json.dumps(averaged(points, len(options.seeds)), indent=1) + "\n")
    return summary


def _answers(files: CompareFiles, seed: int) -> Path:
    """Where the answers of one seed are kept; its rows share many of them."""
    directory = files.out / f"seed-{seed}"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / FILE


@dataclass(frozen=True, slots=True)
class _Data:
    """What the files hold, queries and test questions cut to what was asked for; every seed sees the same."""

    task: Task
    examples: Sequence[Example]
    queries: Sequence[Query]
    tested: Sequence[Example]
    truth: Mapping[str, Example]


def _read(config: MethodConfig, files: CompareFiles, options: CompareOptions) -> _Data:
    task = Task(config.task)
    examples = read_examples(files.examples, task, config.data)
    queries, tested = read_queries(files.queries, task, config.data), read_examples(files.test, task, config.data)
    # By their ids alone: every seed and every row of the table sees the same.
    queries = drawn(queries, options.max_queries or len(queries), 0, "cut")
    tested = drawn(tested, options.max_test or len(tested), 0, "cut")
    truth = true_answers(files.answers, queries, task, config.data) if files.answers else {}
    data = _Data(task, examples, queries, tested, truth)
    _check(files, data)
    return data


def _check(files: CompareFiles, data: _Data) -> None:
    """What would otherwise be noticed after hours of training."""
    try:
        import scipy  # noqa: F401
    except ImportError:
        raise ConfigError("semievol compare: needs scipy and bm25s; pip install 'semievol[compare]'") from None
    for path, rows in ((files.examples, data.examples), (files.queries, data.queries), (files.test, data.tested)):
        if not rows:
            raise DataError(f"{path}: is empty; give at least one row")
    asked = {example.id for example in data.tested}
    for path, ids in (
        (files.examples, {example.id for example in data.examples}),
        (files.queries, {query.id for query in data.queries}),
    ):
        if shared := sorted(asked & ids):
            raise DataError(
                f"{files.test}: field 'id': {shared[0]!r} is also in {path}; what is tested on must not be trained on "
                f"({len(shared)} such ids)"
            )


def _methods(config: MethodConfig, options: CompareOptions, data: _Data) -> list[ComparedMethod]:
    """The rows that were asked for; those that lack what they need are left out, or refused where they were named."""
    lacks: dict[str, str] = {}
    missing = sum(query.id not in data.truth for query in data.queries)
    if missing:
        lacks["fully_labelled"] = f"needs --answers with the truth of every query; {missing} have none"
    methods = all_methods(config)
    if not config.task.closed:
        lacks["probe"] = "needs answers that mean the same for every query: task.labels"
    if not options.neighbours:
        lacks |= {method.name: "needs --neighbours above 0" for method in methods if not method.closed_book}
    for name in options.rows or ():
        if name in lacks:
            raise ConfigError(f"--rows {name}: {lacks[name]}")
    return [method for method in pick(methods, options.rows) if method.name not in lacks]


def _with_model(config: MethodConfig, model: str) -> MethodConfig:
    """The settings with another model that answers: an entry of `models`, or a model of this process.

    Raises:
        ConfigError: it is neither.
    """
    if model in config.models:
        return config.model_copy(update={"generation": config.models[model]})
    if config.generation.kind != "local":
        raise ConfigError(
            f"--model {model}: generation.kind {config.generation.kind} answers with its own model; name an entry of "
            "`models`"
        )
    own = {"name": model, "revision": None, "chat_template": None}
    return config.model_copy(update={"model": config.model.model_copy(update=own)})


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all seeds, and all models of a seed, have in common."""

    out: Path
    options: CompareOptions
    data: _Data
    embedder: Embedder
    watcher: Watcher

    def world(self, config: MethodConfig, generator: Generator) -> World:
        """What the rows of one seed share: the settings hold the seed, and `generator` answers."""
        from semievol.examples.lexical import Bm25ExampleIndex

        data, options = self.data, self.options
        labelled = drawn_examples(data.examples, options.per_answer, config.seed)
        directory = self.out / f"seed-{config.seed}"
        return World(
            task=data.task,
            generator=generator,
            trainer=SharedTrainer(trainer_of(config), directory / "trainings"),
            dense=index_over(self.embedder, labelled),
            bm25=Bm25ExampleIndex(labelled) if options.neighbours and _wants_bm25(options) else None,
            embedder=self.embedder,
            equality=AnswerEquality(data.task, self.embedder if data.task.embeds else None),
            examples=labelled,
            queries=tuple(data.queries),
            truth=data.truth,
            tested=tuple(data.tested),
            rounds=options.rounds,
            neighbours=options.neighbours,
            directory=directory,
            watcher=lambda step, total: self.watcher(f"seed {config.seed}: {step}", total),
        )


def _wants_bm25(options: CompareOptions) -> bool:
    return options.rows is None or "rag_bm25" in options.rows
