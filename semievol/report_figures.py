"""The figures of a report: what is plotted, how it is read, and what is said where there is nothing to plot.

Owns the step from ReportData to charts; geometry is in charts, colours in the template. Invariant: every figure is
there in every report, as a chart or as a note that says what it would need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from semievol.charts import MARKS, Axis, Plot, Point, dumbbells, percent, swatch
from semievol.report_data import PoolPoint, ReportData, RoundReport, Score

MAX_CATEGORIES = 24
ENTROPY_BINS = 24
CONFIDENCE_BINS = 10
STYLES = ("first", "second", "third", "fourth")


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with legend and caption; `svg` None: `note` says why there is none. `legend`: (swatch SVG, text)."""

    name: str
    title: str
    caption: str
    svg: str | None = None
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""


def figures(data: ReportData) -> list[Figure]:
    """All figures, in the order of the page."""
    makers: tuple[Callable[[ReportData], Figure], ...] = (
        accuracy_over_rounds,
        categories,
        entropy_of_selection,
        entropy_of_truth,
        precision_against_coverage,
        reliability,
        training_loss,
        timeline,
    )
    return [make(data) for make in makers]


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
    caption = "Hollow circle: before (the warm adapter). Filled diamond: at the end. The longest changes come first."
    if not data.categories:
        return Figure(name, title, caption, note="No test examples with categories were evaluated.")
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


def entropy_of_selection(data: ReportData) -> Figure:
    """Histogram of the last round's pool, selected or not."""
    caption = (
        "Entropy is the mean negative log-probability of the answer's tokens: small means sure. The dashed line is "
        "the threshold; what is left of it and still not selected failed another rule (agreement, or no parseable "
        "answer)."
    )
    pool, threshold = _last_pool(data)
    return _histogram(
        "entropy-selected",
        "Entropy of pseudo-labels: selected or not",
        caption,
        {
            ("selected", "first"): [p.entropy for p in pool if p.selected],
            ("not selected", "muted"): [p.entropy for p in pool if not p.selected],
        },
        threshold,
        "No pseudo-label was made yet.",
    )


def entropy_of_truth(data: ReportData) -> Figure:
    """The same histogram, right or wrong where the truth is known."""
    caption = (
        "The same pseudo-labels against the truth, which the run itself never sees. The better entropy tells right "
        "from wrong, the further the wrong ones lie to the right of the threshold."
    )
    pool, threshold = _last_pool(data)
    return _histogram(
        "entropy-truth",
        "Entropy of pseudo-labels: right or wrong",
        caption,
        {
            ("right", "gain"): [p.entropy for p in pool if p.correct is True],
            ("wrong", "loss"): [p.entropy for p in pool if p.correct is False],
        },
        threshold,
        "The truth about the queries is not known, so right and wrong cannot be told apart.",
    )


def precision_against_coverage(data: ReportData) -> Figure:
    """For each round: how many of the surest pseudo-labels are right, the more of them are kept."""
    name, title = "precision", "Precision against coverage"
    caption = (
        "Going right, pseudo-labels are taken in order of rising entropy; the curve is the share of right ones so "
        "far. The large mark is what the round selected. A flat high curve means that more could have been taken."
    )
    curves = []
    for record in data.rounds:
        pool = [p for p in data.pool if p.round == record.number]
        known = sorted((p for p in pool if p.correct is not None), key=lambda p: p.entropy)
        if known:
            right = list(accumulate(int(p.correct is True) for p in known))
            start = min(len(known) - 1, max(4, len(known) // 50))  # the first few are noise
            curve = [((n + 1) / len(known), right[n] / (n + 1)) for n in range(start, len(known))]
            kept = [p for p in known if p.selected]
            chosen = (len(kept) / len(known), sum(p.correct is True for p in kept) / len(kept)) if kept else None
            curves.append((record, curve, chosen))
    if not curves:
        return Figure(
            name, title, caption, note="The truth about the queries is not known, so precision cannot be told."
        )
    curves = curves[-len(STYLES) :]
    lows = [y for _, curve, _ in curves for _, y in curve] + [chosen[1] for *_, chosen in curves if chosen]
    coverage = Axis("coverage: share of the pool that is kept", 0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1), percent)
    plot = Plot(title, coverage, Axis.share("precision", lows))
    for (_, curve, _), style in zip(curves, STYLES, strict=False):
        plot.line(curve, style)
    for n, (record, _, chosen) in enumerate(curves):
        if chosen:
            hint = f"{record.name}: {percent(chosen[1])} right at {percent(chosen[0])}"
            plot.mark(chosen, STYLES[n], MARKS[n], size=6, hint=hint)
    legend = tuple(
        (swatch(STYLES[n], MARKS[n]), _chosen_text(record, chosen)) for n, (record, _, chosen) in enumerate(curves)
    )
    return Figure(name, title, caption, plot.svg(), legend)


def reliability(data: ReportData) -> Figure:
    """Mean confidence against accuracy in ten bins of the last round's pool."""
    name, title = "reliability", "Is the confidence earned?"
    caption = (
        "Pseudo-labels in ten groups of equal confidence range; larger marks hold more of them. On the dashed line, "
        "confidence equals accuracy; above it the model is too modest, below it too sure."
    )
    pool = [p for p in _last_pool(data)[0] if p.correct is not None]
    if not pool:
        return Figure(
            name, title, caption, note="The truth about the queries is not known, so calibration cannot be told."
        )
    bins: list[list[PoolPoint]] = [[] for _ in range(CONFIDENCE_BINS)]
    for p in pool:
        bins[min(CONFIDENCE_BINS - 1, int(p.confidence * CONFIDENCE_BINS))].append(p)
    points = [
        (sum(p.confidence for p in group) / len(group), sum(p.correct is True for p in group) / len(group), len(group))
        for group in bins
        if group
    ]
    error = sum(abs(x - y) * count for x, y, count in points) / len(pool)
    ticks = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    plot = Plot(title, Axis("confidence", 0, 1, ticks, percent), Axis("accuracy", 0, 1, ticks, percent))
    plot.diagonal()
    plot.line([(x, y) for x, y, _ in points], "first")
    largest = max(count for *_, count in points)
    for x, y, count in points:
        hint = f"{count} pseudo-labels: confidence {percent(x)}, right {percent(y)}"
        plot.mark((x, y), "first", "circle", size=3 + 6 * math.sqrt(count / largest), hint=hint)
    caption += f" Expected calibration error: {100 * error:.1f} points over {len(pool)} pseudo-labels."
    return Figure(name, title, caption, plot.svg())


def training_loss(data: ReportData) -> Figure:
    """Loss over optimiser steps, one line a round."""
    name, title = "loss", "Training loss"
    caption = (
        "Mean negative log-likelihood of the answers' tokens at each logged optimiser step. Each round trains a new "
        "adapter, so each line starts high; it should fall and flatten."
    )
    rounds = [r for r in data.rounds if r.losses][-len(STYLES) :]
    if not rounds:
        return Figure(name, title, caption, note="No training was logged yet.")
    finite = {r.number: [(float(s), v) for s, v in r.losses if math.isfinite(v)] for r in rounds}
    every = [point for points in finite.values() for point in points]
    steps = Axis.around("optimiser step", [x for x, _ in every], zero=True)
    plot = Plot(title, steps, Axis.around("loss (nats per token)", [y for _, y in every], zero=True))
    for n, record in enumerate(rounds):
        plot.line(finite[record.number], STYLES[n] if n == 0 else f"{STYLES[n]} dashed-{n}")
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
    caption = "The line counts labelled queries. Shaded: a round at work. Dashed: the alias moved to another adapter."
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


def _last_pool(data: ReportData) -> tuple[list[PoolPoint], float | None]:
    """The pool of the last round that had one, and its threshold."""
    if not data.pool:
        return [], None
    last = max(p.round for p in data.pool)
    threshold = next((r.threshold for r in data.rounds if r.number == last), None)
    return [p for p in data.pool if p.round == last], threshold


def _histogram(
    name: str,
    title: str,
    caption: str,
    groups: Mapping[tuple[str, str], list[float]],
    threshold: float | None,
    note: str,
) -> Figure:
    """Stacked bars over entropy, one colour a group (label, style); answers without an entropy are left out."""
    finite = sorted(v for values in groups.values() for v in values if math.isfinite(v))
    if not finite:
        return Figure(name, title, caption, note=note)
    end = max(finite[min(len(finite) - 1, int(len(finite) * 0.98))], threshold or 0.0, 0.01)
    x_axis = Axis.around("entropy (nats per token)", [0.0, end], zero=True)
    width = x_axis.high / ENTROPY_BINS
    counts = [[0] * ENTROPY_BINS for _ in groups]
    for place, values in enumerate(groups.values()):
        for value in values:
            if math.isfinite(value):
                counts[place][min(ENTROPY_BINS - 1, int(value / width))] += 1
    tallest = max(sum(column) for column in zip(*counts, strict=True))
    plot = Plot(title, x_axis, Axis.around("pseudo-labels", [tallest], zero=True))
    for n in range(ENTROPY_BINS):
        base = 0.0
        for place, (label, style) in enumerate(groups):
            if counts[place][n]:
                top = base + counts[place][n]
                more = " or more" if n == ENTROPY_BINS - 1 else ""
                hint = f"{counts[place][n]} {label}, entropy {n * width:.2f} to {(n + 1) * width:.2f}{more}"
                plot.box(((n + 0.06) * width, base), ((n + 0.94) * width, top), f"bar {style}", hint=hint)
                base = top
    if threshold is not None and math.isfinite(threshold):
        plot.vertical(threshold, f"threshold {threshold:.3g}")
    legend = tuple(
        (swatch(f"bar {style}", "box"), f"{label} ({len(values)})") for (label, style), values in groups.items()
    )
    beyond = sum(v >= x_axis.high for v in finite)
    if beyond:
        caption += f" The last bar also holds the {beyond} beyond the axis."
    return Figure(name, title, caption, plot.svg(), legend)


def _chosen_text(record: RoundReport, chosen: Point | None) -> str:
    if chosen is None:
        return f"{record.name}: none selected"
    return f"{record.name}: {percent(chosen[1])} right at {percent(chosen[0])} kept"


def _swap_name(rounds: Sequence[RoundReport], adapter: str | None) -> str:
    if adapter is None:
        return "base"
    return next((r.name for r in rounds if r.adapter == adapter), adapter)
