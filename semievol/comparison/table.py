"""The table of a comparison: accuracies, intervals, error reductions and paired tests, in JSON, CSV and Markdown.

Owns what stands in it and how it is written. Reads the rows' outcome files; trains and asks nothing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semievol.comparison.statistics import error_reduction, gap_closed, mean_accuracy, paired_difference

FORMS = ("closed_book", "open_book")


def table(
    results: Mapping[str, list[dict[str, Any]]], titles: Mapping[str, str], seeds: Sequence[int], out: Path
) -> list[dict[str, Any]]:
    """One dictionary a row: accuracy with its interval, over rounds, and against vanilla, SFT and the bound."""
    correct = {
        name: {
            form: [
                correct_answers(out / f"seed-{seed}", result, form) for seed, result in zip(seeds, found, strict=True)
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


def correct_answers(directory: Path, result: Mapping[str, Any], form: str) -> dict[str, bool]:
    """By question: whether the row's last adapter answered it rightly."""
    path = directory / str(result["name"]) / str(result["stages"][-1][f"{form}_outcomes"])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: bool(row["correct"]) for row in rows}


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
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
            f"| {_title(row['title'])} "
            f"| {100 * found['accuracy']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}] "
            f"| {stages if len(found['over_rounds']) > 1 else ''} | {_share(found.get('error_reduction'))} "
            f"| {_share(found.get('error_reduction_over_sft'))} | {_share(found.get('gap_closed'))} | {versus} |"
        )
    return "\n".join(lines)


def _title(text: str) -> str:
    """A name that a person gave, on one line and within its cell."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
