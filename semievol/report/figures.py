"""The figures of a report: what is plotted, how it is read, and what is said where there is nothing to plot.

Owns their order and the figures about rounds; those about pseudo-labels and answers are in report.label_figures and
report.answer_figures, geometry in charts, colours in the template. Invariant: every figure is there in every report, as
a chart or as a note that says what it would need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from semievol.report.answer_figures import entropy_of_answers, reliability_of_answers, sweeps
from semievol.report.charts import MARKS, Axis, Plot, Point, dumbbells, percent, swatch
from semievol.report.data import ReportData, RoundReport, Score
from semievol.report.figure import STYLES, Figure, line_style
from semievol.report.label_figures import (
    count_over_theta,
    entropy_of_selection,
    entropy_of_truth,
    precision_against_coverage,
    precision_over_theta,
    reliability,
    votes_over_n,
)

MAX_CATEGORIES = 24


def figures(data: ReportData) -> list[Figure]:
    """All figures, in the order of the page."""
    return [
        accuracy_over_rounds(data),
        categories(data),
        entropy_of_answers(data),
        reliability_of_answers(data),
        entropy_of_selection(data),
        entropy_of_truth(data),
        precision_against_coverage(data),
        reliability(data),
        precision_over_theta(data),
        count_over_theta(data),
        votes_over_n(data),
        *sweeps(data),
        training_loss(data),
        timeline(data),
    ]


def accuracy_over_rounds(data: ReportData) -> Figure:
    """Serving accuracy after each round on test and holdout; candidates that were refused, as hollow marks."""
    name, title = "accuracy", "Accuracy over rounds"
    caption = (
        "Each point is the adapter that serves after that round, asked closed book; whiskers are 95 % intervals. A "
        "hollow mark is a candidate that was not promoted: the line goes on at what kept serving."
    )
    rounds = [r for r in data.rounds if (r.test_after or r.holdout_after)]
    if not rounds:
        return Figure(name, title, caption, note="No round was evaluated yet.")
    series: list[tuple[str, str, list[Point], list[Score | None], list[tuple[int, Score]]]] = []
    for label, style, before, after in (
        ("test set", "first", [r.test_before for r in rounds], [r.test_after for r in rounds]),
        (
            "holdout (what the gate sees)",
            "second",
            [r.holdout_before for r in rounds],
            [r.holdout_after for r in rounds],
        ),
    ):
        serving: Score | None = before[0]
        scores, refused = [serving], []
        for n, (record, score) in enumerate(zip(rounds, after, strict=True), 1):
            if record.promoted and score:
                serving = score
            elif score:
                refused.append((n, score))
            scores.append(serving)
        points = [(float(n), score.accuracy) for n, score in enumerate(scores) if score]
        if points:
            series.append((label, style, points, scores, refused))
    lows = [low for *_, scores, _ in series for score in scores if score for low in [score.interval()[0]]]
    plot = Plot(title, Axis.categories("", ["before", *(r.name for r in rounds)]), Axis.share("accuracy", lows))
    for place, (_, style, points, scores, refused) in enumerate(series):
        offset = 0.05 * (2 * place - (len(series) - 1))  # so that the whiskers of two series stay apart
        for n, score in enumerate(scores):
            if score:
                plot.interval(n + offset, *score.interval(), style)
        plot.line([(x + offset, y) for x, y in points], style if place == 0 else f"{style} dashed")
        for x, y in points:
            plot.mark((x + offset, y), style, MARKS[place], hint=percent(y))
            side = -1 if place == 0 else 1
            plot.text((x + offset, y), f"{100 * y:.0f}", dx=side * 14, dy=4)
        for n, score in refused:
            plot.mark(
                (n + offset, score.accuracy),
                f"{style} hollow",
                MARKS[place],
                hint=f"refused: {percent(score.accuracy)}",
            )
    legend = tuple((swatch(style, MARKS[place]), label) for place, (label, style, *_) in enumerate(series))
    return Figure(name, title, caption, plot.svg(), legend)


def categories(data: ReportData) -> Figure:
    """Test accuracy per category, before and after."""
    name, title = "categories", "Accuracy by category"
    caption = f"Hollow circle: before. Filled diamond: after. {data.comparison}"
    if not data.categories:
        return Figure(name, title, caption, note="No labelled examples with categories were evaluated.")
    ordered = sorted(data.categories, key=lambda c: -abs(c.after.accuracy - c.before.accuracy))
    shown = sorted(ordered[:MAX_CATEGORIES], key=lambda c: -(c.after.accuracy - c.before.accuracy))
    if len(ordered) > len(shown):
        caption += f" {len(ordered) - len(shown)} categories with smaller changes are left out."
    rows = [(c.category, c.before.accuracy, c.after.accuracy) for c in shown]
    legend = (
        (swatch("before hollow", "circle"), "before"),
        (swatch("gain", "diamond"), "after, not lower"),
        (swatch("loss", "diamond"), "after, lower"),
    )
    return Figure(name, title, caption, dumbbells(title, rows, "before", "after"), legend)


def training_loss(data: ReportData) -> Figure:
    """Loss over optimiser steps, one line a round."""
    name, title = "loss", "Training loss"
    caption = (
        "Mean negative log-likelihood of the answers' tokens at each logged optimiser step; of an older run, of the "
        "first and the last step alone. A new adapter starts high; its line should fall and flatten."
    )
    rounds = [r for r in data.rounds if r.losses][-len(STYLES) :]
    if not rounds:
        return Figure(name, title, caption, note="No training was logged yet.")
    finite = {r.number: [(float(s), v) for s, v in r.losses if math.isfinite(v)] for r in rounds}
    every = [point for points in finite.values() for point in points]
    steps = Axis.around("optimiser step", [x for x, _ in every], zero=True)
    plot = Plot(title, steps, Axis.around("loss (nats per token)", [y for _, y in every], zero=True))
    for n, record in enumerate(rounds):
        plot.line(finite[record.number], line_style(n))
        if finite[record.number]:
            plot.mark(finite[record.number][-1], STYLES[n], MARKS[n])
    legend = tuple(
        (swatch(STYLES[n], MARKS[n]), f"{r.name}, {r.training_s:.0f} s" if r.training_s is not None else r.name)
        for n, r in enumerate(rounds)
    )
    return Figure(name, title, caption, plot.svg(), legend)


def timeline(data: ReportData) -> Figure:
    """Queries labelled over time, with the spans of rounds and the moments of swaps."""
    name, title = "timeline", "The run over time"
    caption = "The line counts labelled queries. Shaded: a round at work."
    if data.served:
        caption += " Dashed: the alias moved to another adapter."
    else:
        caption += (
            " Seconds of finished steps, one after the other; what was interrupted and done again is not counted."
        )
    if not data.progress:
        return Figure(name, title, caption, note="No query was labelled yet.")
    times = [p.at_s for p in data.progress] + [s.at_s for s in data.swaps]
    times += [r.ended_s for r in data.rounds if r.ended_s is not None]
    long = max(times) > 600
    scale = 60.0 if long else 1.0
    x_axis = Axis.around(
        f"time since start ({'minutes' if long else 'seconds'})", [t / scale for t in times], zero=True
    )
    counts = [float(p.labelled) for p in data.progress]
    plot = Plot(title, x_axis, Axis.around("queries labelled", counts, zero=True))
    for record in data.rounds:
        if record.started_s is not None and record.ended_s is not None:
            corners = ((record.started_s / scale, plot.y_axis.low), (record.ended_s / scale, plot.y_axis.high))
            plot.box(*corners, "span", hint=f"{record.name}: {record.state}")
    points = [(p.at_s / scale, float(p.labelled)) for p in sorted(data.progress, key=lambda p: p.at_s)]
    plot.line([(0.0, 0.0), *points, (x_axis.high, points[-1][1])], "first", stepped=True)
    for n, swap in enumerate(data.swaps):
        plot.vertical(swap.at_s / scale, _swap_name(data.rounds, swap.adapter), row=n % 3)
    legend = ((swatch("first", "line"), "queries labelled"), (swatch("span", "box"), "round at work"))
    return Figure(name, title, caption, plot.svg(), legend)


def _swap_name(rounds: Sequence[RoundReport], adapter: str | None) -> str:
    if adapter is None:
        return "base"
    return next((r.name for r in rounds if r.adapter == adapter), adapter)
