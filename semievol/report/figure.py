"""What the figures of a report are made with: a figure's parts, histograms and reliability diagrams.

Owns forms that several figures share; what they show is in report.figures and its two neighbours. Invariant: no form
fails on values that are infinite or not numbers; such answers are counted in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semievol.report.charts import MARKS, Axis, Plot, percent, swatch
from semievol.report.measures import CalibrationBin, calibration_error

ENTROPY_BINS = 24
STYLES = ("first", "second", "third", "fourth")
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with legend and caption; `svg` None: `note` says why there is none. `legend`: (swatch SVG, text)."""

    name: str
    title: str
    caption: str
    svg: str | None = None
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""


def line_style(place: int) -> str:
    """The colour and dashes of the n-th line of a figure."""
    return STYLES[place] if place == 0 else f"{STYLES[place]} dashed-{place}"


def histogram(
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


def outlines(name: str, title: str, caption: str, groups: Sequence[tuple[str, Sequence[float]]], note: str) -> Figure:
    """One stepped outline over entropy for each of up to four groups (label, entropies), as shares of the group."""
    finite = sorted(v for _, values in groups for v in values if math.isfinite(v))
    if not finite:
        return Figure(name, title, caption, note=note)
    end = max(finite[min(len(finite) - 1, int(len(finite) * 0.98))], 0.01)
    x_axis = Axis.around("entropy (nats per token)", [0.0, end], zero=True)
    width = x_axis.high / ENTROPY_BINS
    shares = []
    for _, values in groups:
        counts = [0] * ENTROPY_BINS
        for value in values:
            if math.isfinite(value):
                counts[min(ENTROPY_BINS - 1, int(value / width))] += 1
        shares.append([count / max(1, len(values)) for count in counts])
    plot = Plot(
        title, x_axis, Axis.around("share of the answers", [v for row in shares for v in row], percent, zero=True)
    )
    legend = []
    for place, ((label, values), row) in enumerate(zip(groups, shares, strict=True)):
        plot.line(
            [(n * width, share) for n, share in enumerate(row)] + [(x_axis.high, row[-1])],
            line_style(place),
            stepped=True,
        )
        measured = [v for v in values if math.isfinite(v)]
        mean = f", mean {math.fsum(measured) / len(measured):.3f}" if measured else ""
        missing = f", {len(values) - len(measured)} without tokens" if len(measured) < len(values) else ""
        legend.append((swatch(line_style(place), "line"), f"{label}{mean}{missing}"))
    beyond = sum(v >= x_axis.high for v in finite)
    if beyond:
        caption += f" The last step also holds the {beyond} beyond the axis."
    return Figure(name, title, caption, plot.svg(), tuple(legend))


def reliability_diagram(
    name: str, title: str, caption: str, groups: Sequence[tuple[str, Sequence[CalibrationBin]]]
) -> Figure:
    """Accuracy over confidence, one line for each of up to four groups; the legend has the calibration errors."""
    plot = Plot(title, Axis("confidence", 0, 1, SHARES, percent), Axis("accuracy", 0, 1, SHARES, percent))
    plot.diagonal()
    largest = max(part.count for _, bins in groups for part in bins)
    legend = []
    for place, (label, bins) in enumerate(groups):
        plot.line([(part.confidence, part.accuracy) for part in bins], line_style(place))
        for part in bins:
            hint = (
                f"{label}, {part.count} answers: confidence {percent(part.confidence)}, right {percent(part.accuracy)}"
            )
            size = 3 + 6 * math.sqrt(part.count / largest)
            plot.mark((part.confidence, part.accuracy), STYLES[place], MARKS[place], size=size, hint=hint)
        count = sum(part.count for part in bins)
        error = f"expected calibration error {100 * calibration_error(bins):.1f} points over {count}"
        legend.append((swatch(STYLES[place], MARKS[place]), f"{label}: {error}"))
    return Figure(name, title, caption, plot.svg(), tuple(legend))
