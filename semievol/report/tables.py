"""The numbers behind a report's figures as CSV files, one for each table.

Owns columns and spelling: an empty cell is what is not known, shares are in [0, 1], entropies in nats per token (inf:
there is none). Invariant: the tables follow from the ReportData alone, and each file appears whole or not at all.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from semievol.durable_files import write_durably
from semievol.report.data import Evaluated, ReportData, Score
from semievol.report.measures import CalibrationBin, calibration, calibration_error, coverage

Cell = str | int | float | bool | None
SCORE = ("correct", "total", "accuracy", "low", "high")


def tables(data: ReportData) -> dict[str, list[Sequence[Cell]]]:
    """Each table by its file name, header first."""
    found = {
        "rounds.csv": _rounds(data),
        "pseudo_labels.csv": _pseudo_labels(data),
        "accuracy.csv": _accuracy(data),
        "categories.csv": _categories(data),
        "calibration.csv": _calibration(data),
        "coverage.csv": _coverage(data),
        "theta.csv": _theta(data),
        "n.csv": _votes(data),
    }
    if data.sweep:
        found["sweep.csv"] = _sweep(data)
    return {name: list(rows) for name, rows in found.items()}


def write_tables(data: ReportData, directory: Path) -> list[Path]:
    """Write every table into `directory` (made if missing)."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, rows in tables(data).items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
        write_durably(directory / name, text.getvalue())
        written.append(directory / name)
    return written


def _cell(value: Cell) -> str | int | float:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def _rounds(data: ReportData) -> Iterator[Sequence[Cell]]:
    yield (
        *("round", "kind", "state", "adapter", "decision", "reason", "pool", "selected", "selected_known"),
        *("selected_correct", "selected_precision", "threshold", "holdout_before", "holdout_after", "wins", "losses"),
        *("p_better", "test_before", "test_after", "training_s", "first_loss", "last_loss"),
    )
    for r in data.rounds:
        known = r.selected if r.selected_known is None and r.selected_correct is not None else r.selected_known
        yield (
            *(r.number, r.kind, r.state, r.adapter, r.decision, r.reason, r.pool, r.selected, known),
            *(r.selected_correct, r.selected_precision, r.threshold, _share(r.holdout_before), _share(r.holdout_after)),
            *(r.wins, r.losses_to_incumbent, r.p_better, _share(r.test_before), _share(r.test_after), r.training_s),
            *((r.losses[0][1], r.losses[-1][1]) if r.losses else (None, None)),
        )


def _pseudo_labels(data: ReportData) -> Iterator[Sequence[Cell]]:
    yield ("round", "id", "answer", "truth", "entropy", "agreement", "confidence", "selected", "reason", "uncertainty")
    for p in data.pool:
        yield (
            p.round,
            p.id,
            p.answer,
            p.truth,
            p.entropy,
            p.agreement,
            p.confidence,
            p.selected,
            p.reason,
            p.uncertainty,
        )


def _accuracy(data: ReportData) -> Iterator[Sequence[Cell]]:
    yield ("adapter", "name", "set", *SCORE)
    for e in data.evaluated:
        yield (e.adapter or "base", e.name, e.examples, *_score(e.score))


def _categories(data: ReportData) -> Iterator[Sequence[Cell]]:
    yield ("adapter", "name", "set", "category", *SCORE)
    for e in data.evaluated:
        for category, score in _by_category(e).items():
            yield (e.adapter or "base", e.name, e.examples, category, *_score(score))


def _calibration(data: ReportData) -> Iterator[Sequence[Cell]]:
    yield ("of", "set", "low", "high", "count", "confidence", "accuracy", "expected_calibration_error")
    for number in sorted({p.round for p in data.pool}):
        known = [(p.confidence, p.correct) for p in data.pool if p.round == number and p.correct is not None]
        yield from _bins(f"round {number}", "pseudo-labels", calibration(known))
    for e in data.evaluated:
        bins = calibration([(answer.confidence, answer.correct) for answer in e.answers])
        yield from _bins(e.adapter or "base", e.examples, bins)


def _bins(of: str, examples: str, bins: Sequence[CalibrationBin]) -> Iterator[Sequence[Cell]]:
    error = calibration_error(bins)
    for part in bins:
        yield (of, examples, part.low, part.high, part.count, part.confidence, part.accuracy, error)


def _coverage(data: ReportData) -> Iterator[Sequence[Cell]]:
    yield ("round", "ranked_by", "uncertainty", "kept", "coverage", "correct", "precision")
    for number in sorted({p.round for p in data.pool}):
        for point in coverage([p for p in data.pool if p.round == number]):
            yield (
                number,
                data.ranked_by,
                point.uncertainty,
                point.kept,
                point.coverage,
                point.correct,
                point.precision,
            )


def _theta(data: ReportData) -> Iterator[Sequence[Cell]]:
    yield ("round", "theta", "used", "threshold", "selected", "pool", "known", "correct", "precision")
    for p in data.theta:
        yield (p.round, p.theta, p.used, p.threshold, p.selected, p.pool, *_known(p.right))


def _votes(data: ReportData) -> Iterator[Sequence[Cell]]:
    yield (
        *("round", "n", "agreement", "parsed", "pool", "known", "correct", "precision"),
        *("selected", "selected_known", "selected_correct", "selected_precision"),
    )
    for p in data.votes:
        yield (p.round, p.n, p.agreement, p.parsed, p.pool, *_known(p.right), p.selected, *_known(p.selected_right))


def _sweep(data: ReportData) -> Iterator[Sequence[Cell]]:
    yield ("parameter", "value", *SCORE)
    for p in data.sweep:
        yield (p.parameter, p.value, *_score(p.accuracy))


def _score(score: Score) -> tuple[Cell, ...]:
    return (score.correct, score.total, _share(score), *score.interval())


def _share(score: Score | None) -> float | None:
    return score.accuracy if score is not None and score.total else None


def _known(score: Score | None) -> tuple[Cell, Cell, Cell]:
    return (score.total, score.correct, _share(score)) if score is not None else (0, None, None)


def _by_category(evaluated: Evaluated) -> Mapping[str, Score]:
    named: Iterable[str] = sorted({answer.category for answer in evaluated.answers if answer.category is not None})
    found = {}
    for name in named:
        verdicts = [answer.correct for answer in evaluated.answers if answer.category == name]
        found[name] = Score(sum(verdicts), len(verdicts))
    return found
