"""What `semievol compare` does: every row for every seed, then the table with intervals, tests and error reductions.

Owns the composition and the files of a comparison: OUT/seed-N/ROW/ (see comparison), OUT/compare.json,
OUT/compare.csv, OUT/compare.md and, with sweeps, OUT/sweep.json. A finished row is not run again, so that a killed
comparison goes on, and seeds may be run by several processes at a time and put together by a last call.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semievol.adapter_directory import write_durably
from semievol.answer_equality import AnswerEquality
from semievol.comparison import SharedTrainer, World, drawn_examples, run_method, with_ratio
from semievol.comparison_rows import ComparedMethod, all_methods, pick, with_candidates, with_theta
from semievol.comparison_statistics import error_reduction, gap_closed, mean_accuracy, paired_difference
from semievol.config import MethodConfig
from semievol.data import read_examples, read_queries
from semievol.errors import ConfigError
from semievol.file_commands import true_answers
from semievol.file_engine import open_generator, trainer_of
from semievol.recipe import Watcher
from semievol.seeds import derive
from semievol.task import Task
from semievol.types import Example, Query

if TYPE_CHECKING:
    from semievol.protocols import Generator

FORMS = ("closed_book", "open_book")
SWEEPS = ("n", "theta", "ratio")


@dataclass(frozen=True, slots=True)
class CompareFiles:
    """Files of `semievol compare`. `answers`: true answers of the queries, for the bound and for precision."""

    examples: Path
    queries: Path
    test: Path
    out: Path
    answers: Path | None = None


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How much is compared.

    seeds: each draws examples, order and samples anew. rounds: evolve rounds. neighbours: shown at inference, 0: closed
    book only. rows: None: all that can run. per_answer, max_queries, max_test: cut the data (None: whole).
    models: further models as rows of their own, by title. sweeps: values of n, theta and ratio for SemiEvol.
    """

    seeds: tuple[int, ...] = (0,)
    rounds: int = 3
    neighbours: int = 0
    rows: tuple[str, ...] | None = None
    per_answer: int | None = None
    max_queries: int | None = None
    max_test: int | None = None
    models: Mapping[str, str] | None = None
    sweeps: Mapping[str, tuple[float, ...]] | None = None


def parsed_options(
    *, seeds: str, rows: str | None, models: Sequence[str], sweeps: Sequence[str], **others: Any
) -> CompareOptions:
    """Options as they are written on a command line.

    Raises:
        ConfigError: names the option and the fix.
    """
    drawn = tuple(int(value) for value in _numbers("--seeds", seeds))
    if len(set(drawn)) != len(drawn):
        raise ConfigError(f"--seeds: {seeds} has one of them twice")
    titled = {}
    for each in models:
        title, equals, path = each.partition("=")
        if not equals or not title or not path:
            raise ConfigError(f"--model: {each!r} is not TITLE=PATH")
        titled[title] = path
    values: dict[str, tuple[float, ...]] = {}
    for each in sweeps:
        parameter, _, text = each.partition("=")
        if parameter not in SWEEPS:
            raise ConfigError(f"--sweep: {each!r} is not one of {', '.join(SWEEPS)}, followed by = and values")
        values[parameter] = tuple(_numbers(f"--sweep {parameter}", text))
    wanted = None if rows is None else tuple(name.strip() for name in rows.split(",") if name.strip())
    return CompareOptions(seeds=drawn, rows=wanted, models=titled, sweeps=values, **others)


def _numbers(option: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is not a list of numbers like 1,2,4") from None
    if not all(value >= 0 for value in found):
        raise ConfigError(f"{option}: {text!r} has a number below 0")
    return found


async def run_compare(
    config: MethodConfig, files: CompareFiles, options: CompareOptions, watcher: Watcher
) -> dict[str, Any]:
    """Run what is not finished yet and summarise.

    Raises:
        ConfigError: an option does not fit the data or the settings.
        DataError: a file is unusable.
    """
    task = Task(config.task)
    examples = read_examples(files.examples, task)
    queries = _cut(read_queries(files.queries, task), options.max_queries)
    tested = _cut(read_examples(files.test, task), options.max_test)
    truth = true_answers(files.answers, queries, task) if files.answers else {}
    methods = _methods(config, options, bool(truth))
    results: dict[str, list[dict[str, Any]]] = {method.name: [] for method in methods}
    points: list[dict[str, Any]] = []
    for seed in options.seeds:
        seeded = config.model_copy(update={"seed": seed})
        async with open_generator(seeded) as generator:
            world = _world(seeded, files, options, generator, task, examples, queries, tested, truth, watcher)
            for method in methods:
                own = replace(method, config=method.config.model_copy(update={"seed": seed}))
                results[method.name].append(await run_method(own, world))
            points += await _swept(seeded, options, world)
        for title, path in (options.models or {}).items():
            results.setdefault(title, []).append(
                await _other_model(seeded, path, title, files, options, task, examples, queries, tested, truth, watcher)
            )
    titles = {method.name: method.title for method in methods}
    summary: dict[str, Any] = {
        "examples": len(drawn_examples(examples, options.per_answer, options.seeds[0])),
        "queries": len(queries),
        "tested": len(tested),
        "seeds": list(options.seeds),
        "rounds": options.rounds,
        "neighbours": options.neighbours,
        "rows": table(results, titles, options, files.out),
    }
    write_durably(files.out / "compare.json", json.dumps(summary, indent=1) + "\n")
    write_durably(files.out / "compare.csv", _csv(summary["rows"]))
    write_durably(files.out / "compare.md", markdown(summary))
    if points:
        write_durably(files.out / "sweep.json", json.dumps(_summed(points), indent=1) + "\n")
    return summary


def _methods(config: MethodConfig, options: CompareOptions, has_truth: bool) -> list[ComparedMethod]:
    methods = pick(all_methods(config), options.rows)
    if not has_truth:
        if options.rows and "fully_labelled" in options.rows:
            raise ConfigError("--rows fully_labelled: needs --answers, the true answers of the queries")
        methods = [method for method in methods if method.trained_on != "truth"]
    if not options.neighbours:
        methods = [method for method in methods if method.closed_book]
    return methods


def _cut(rows: list[Any], limit: int | None) -> list[Any]:
    """At most `limit` rows, drawn by their ids alone: every seed and every row of the table sees the same."""
    if limit is None or limit >= len(rows):
        return rows
    identities = [row.id for row in rows]
    kept = set(sorted(identities, key=lambda each: derive(0, "cut", each))[:limit])
    return [row for row in rows if row.id in kept]


def _world(
    config: MethodConfig,
    files: CompareFiles,
    options: CompareOptions,
    generator: Generator,
    task: Task,
    examples: Sequence[Example],
    queries: Sequence[Query],
    tested: Sequence[Example],
    truth: Mapping[str, Example],
    watcher: Watcher,
) -> World:
    from semievol.embedding import RememberedVectors, build_embedder
    from semievol.example_index import QdrantExampleIndex
    from semievol.lexical_index import Bm25ExampleIndex
    from semievol.remembered_answers import RememberedAnswers

    drawn = drawn_examples(examples, options.per_answer, config.seed)
    embedder = RememberedVectors(build_embedder(config.embedding))
    dense = QdrantExampleIndex(embedder, "examples")
    dense.upsert(drawn)
    directory = files.out / f"seed-{config.seed}"
    return World(
        task=task,
        generator=RememberedAnswers(generator),
        trainer=SharedTrainer(trainer_of(config), directory / "trainings"),
        dense=dense,
        bm25=Bm25ExampleIndex(drawn) if options.neighbours else None,
        embedder=embedder,
        equality=AnswerEquality(task, embedder if task.embeds else None),
        examples=drawn,
        queries=tuple(queries),
        truth=truth,
        tested=tuple(tested),
        rounds=options.rounds,
        neighbours=options.neighbours,
        directory=directory,
        watcher=lambda step, total: watcher(f"seed {config.seed}: {step}", total),
    )


async def _other_model(
    config: MethodConfig,
    path: str,
    title: str,
    files: CompareFiles,
    options: CompareOptions,
    task: Task,
    examples: Sequence[Example],
    queries: Sequence[Query],
    tested: Sequence[Example],
    truth: Mapping[str, Example],
    watcher: Watcher,
) -> dict[str, Any]:
    """Another model as it is, closed book and with neighbours."""
    other = config.model_copy(update={"model": config.model.model_copy(update={"name": path, "revision": None})})
    async with open_generator(other) as generator:
        world = _world(other, files, options, generator, task, examples, queries, tested, truth, watcher)
        return await run_method(ComparedMethod(f"model-{title}", title, other, "nothing"), world)


async def _swept(config: MethodConfig, options: CompareOptions, world: World) -> list[dict[str, Any]]:
    """SemiEvol over values of n, theta and the ratio of queries to examples."""
    points = []
    for parameter, values in (options.sweeps or {}).items():
        for value in values:
            here, settings = world, config
            if parameter == "n":
                settings = with_candidates(config, int(value))
            elif parameter == "theta":
                settings = with_theta(config, value)
            else:
                here = replace(world, queries=with_ratio(world.queries, len(world.examples), value, config.seed))
            method = ComparedMethod(f"{parameter}-{value:g}", f"SemiEvol, {parameter} = {value:g}", settings, "rounds")
            result = await run_method(method, here)
            correct = list(_correct(world.directory, result, "closed_book").values())
            points.append(
                {
                    "parameter": parameter,
                    "value": value,
                    "seed": config.seed,
                    "accuracy": {"correct": sum(correct), "total": len(correct)},
                }
            )
    return points


def _summed(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One point a value, over all seeds, as the report reads them."""
    sums: dict[tuple[str, float], list[int]] = {}
    for point in points:
        counts = sums.setdefault((point["parameter"], point["value"]), [0, 0])
        counts[0] += point["accuracy"]["correct"]
        counts[1] += point["accuracy"]["total"]
    return [
        {"parameter": parameter, "value": value, "accuracy": {"correct": correct, "total": total}}
        for (parameter, value), (correct, total) in sums.items()
    ]


# --- the table ------------------------------------------------------------------------------------------------------


def table(
    results: Mapping[str, list[dict[str, Any]]], titles: Mapping[str, str], options: CompareOptions, out: Path
) -> list[dict[str, Any]]:
    """One dictionary a row: accuracy with its interval, over rounds, and against vanilla, SFT and the bound."""
    correct = {
        name: {
            form: [
                _correct(out / f"seed-{seed}", result, form) for seed, result in zip(options.seeds, found, strict=True)
            ]
            for form in FORMS
            if form in found[-1]["stages"][-1]
        }
        for name, found in results.items()
    }
    rows = []
    for name, found in results.items():
        row: dict[str, Any] = {"row": name, "title": titles.get(name, name)}
        for form, by_seed in correct[name].items():
            row[form] = _figures(form, by_seed, correct)
            row[form]["over_rounds"] = _over_rounds(found, form)
        for key in ("precision", "selected_precision", "selected"):
            values = [stage.get(key) for result in found for stage in result["stages"][-1:]]
            if all(value is not None for value in values):
                row[key] = sum(values) / len(values)
        rows.append(row)
    return rows


def _figures(
    form: str, by_seed: list[dict[str, bool]], correct: Mapping[str, Mapping[str, list[dict[str, bool]]]]
) -> dict[str, Any]:
    found = mean_accuracy([list(each.values()) for each in by_seed])
    figures: dict[str, Any] = {"accuracy": found.mean, "low": found.low, "high": found.high}
    figures["by_seed"] = [sum(each.values()) / len(each) for each in by_seed]
    others = {
        name: mean_accuracy([list(each.values()) for each in forms[form]]).mean
        for name, forms in correct.items()
        if form in forms
    }
    # Asked with neighbours, the model as it is is the row of dense retrieval.
    vanilla = others.get("vanilla" if form == "closed_book" else "rag_dense")
    if vanilla is not None:
        figures["error_reduction"] = error_reduction(vanilla, found.mean)
    if "sft" in others:
        figures["error_reduction_over_sft"] = error_reduction(others["sft"], found.mean)
        if "fully_labelled" in others:
            figures["gap_closed"] = gap_closed(others["sft"], found.mean, others["fully_labelled"])
    if "semievol" in others:
        against = paired_difference(by_seed, correct["semievol"][form])
        figures["minus_semievol"] = {
            "difference": against.difference,
            "low": against.low,
            "high": against.high,
            "p": against.p_value,
        }
    return figures


def _over_rounds(found: Sequence[dict[str, Any]], form: str) -> list[float]:
    """Mean accuracy after each stage."""
    return [
        sum(result["stages"][place][form] for result in found) / len(found) for place in range(len(found[0]["stages"]))
    ]


def _correct(directory: Path, result: Mapping[str, Any], form: str) -> dict[str, bool]:
    """By question: whether the row's last adapter answered it rightly."""
    path = directory / str(result["name"]) / str(result["stages"][-1][f"{form}_outcomes"])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: bool(row["correct"]) for row in rows}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = ["row", "title", "form", "accuracy", "low", "high", "error_reduction", "error_reduction_over_sft"]
    columns += ["gap_closed", "minus_semievol", "p"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for form in FORMS:
            if form in row:
                figures = {key: row[form][key] for key in columns if key in row[form] and key != "minus_semievol"}
                against = row[form].get("minus_semievol", {})
                figures |= {"minus_semievol": against.get("difference", ""), "p": against.get("p", "")}
                writer.writerow({"row": row["row"], "title": row["title"], "form": form, **figures})
    return text.getvalue()


def markdown(summary: Mapping[str, Any]) -> str:
    """The table for people, one a form of asking."""
    seeds = len(summary["seeds"])
    parts = [
        f"{summary['examples']} examples, {summary['queries']} queries, {summary['tested']} test questions, "
        f"{seeds} seed{'s' if seeds > 1 else ''}; 95 % intervals in brackets."
    ]
    for form, title in zip(FORMS, ("Closed book", f"With {summary['neighbours']} neighbours"), strict=True):
        rows = [row for row in summary["rows"] if form in row]
        if rows:
            parts += [f"### {title}", _markdown_table(rows, form)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(rows: Sequence[Mapping[str, Any]], form: str) -> str:
    head = (
        "| method | accuracy | over rounds | error reduction | over SFT | gap to bound closed | against SemiEvol (p) |"
    )
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in rows:
        found = row[form]
        against = found.get("minus_semievol")
        versus = (
            ""
            if against is None or row["row"] == "semievol"
            else f"{100 * against['difference']:+.1f} ({against['p']:.2g})"
        )
        stages = " → ".join(f"{100 * value:.1f}" for value in found["over_rounds"])
        lines.append(
            f"| {row['title']} | {100 * found['accuracy']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}] "
            f"| {stages if len(found['over_rounds']) > 1 else ''} | {_share(found.get('error_reduction'))} "
            f"| {_share(found.get('error_reduction_over_sft'))} | {_share(found.get('gap_closed'))} | {versus} |"
        )
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
