"""Charts over time with marks where the alias moved; drawn here, so that they need no script.

Owns what is plotted; geometry and escaping are `semievol.report.charts`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from semievol.report.charts import Axis, Plot, number, percent
from semievold.console.history import Measured, Move, Stretch

STEPS_S = (1, 5, 15, 60, 300, 900, 3_600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000, 31_536_000)
MOST_TICKS = 4
MOST_MARKS = 24
MARK_STYLES = {"promoted": "gain", "rolled_back": "loss", "by_hand": "by-hand"}
WIDTH, HEIGHT = 370, 215
LEFT = 58


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with what it says in words. `svg` None: there is nothing to draw yet, for the reason in `words`."""

    title: str
    words: str
    svg: str | None = None


def accuracy(measured: Sequence[Measured], moves: Sequence[Move], start: float, end: float) -> Chart:
    """What each gate measured: candidates by what became of them, and the line of what served."""
    title = "Accuracy on held-out labels"
    if not measured:
        return Chart(title, "No round has met its gate yet: this fills with the first one.")
    values = [share for each in measured for share in (each.incumbent, each.candidate)]
    plot = Plot(title, time_axis(start, end), Axis.share("right", values), WIDTH, HEIGHT, LEFT)
    _marks(plot, moves, start, end)
    for since, until, value in served(measured, moves, end):
        if until > start:
            plot.line([(max(start, since), value), (until, value)], "first")
    for each in measured:
        if start <= each.at <= end:
            hint = f"round {each.number}, {each.state}: {percent(each.incumbent)} before, {percent(each.candidate)}"
            plot.mark((each.at, each.incumbent), "before hollow", "circle", hint=hint)
            won = each.state in _SERVED
            plot.mark((each.at, each.candidate), "gain" if won else "loss", "diamond" if won else "square", hint=hint)
    last = measured[-1]
    return Chart(
        title,
        f"Round {last.number}: {percent(last.incumbent)} before, {percent(last.candidate)} its candidate. "
        "Diamonds were promoted, squares were not; circles are what served then. The line is what a promoted version "
        "measured, as long as it served.",
        plot.svg(),
    )


def served(measured: Sequence[Measured], moves: Sequence[Move], end: float) -> list[tuple[float, float, float]]:
    """(since, until, accuracy) of each version that was promoted: until the alias moved again."""
    accuracies = {each.number: each.candidate for each in measured}
    spans = []
    for place, move in enumerate(moves):
        if move.kind == "promoted" and move.round in accuracies:
            until = moves[place + 1].at if place + 1 < len(moves) else end
            spans.append((move.at, until, accuracies[move.round]))
    return spans


def entropy(stretches: Sequence[Stretch], moves: Sequence[Move], start: float, end: float) -> Chart:
    points = [(each.at, each.entropy) for each in stretches if each.entropy is not None]
    axis = Axis.around("nats per token", [value for _, value in points], zero=True)
    return _line("Entropy of the answers", points, axis, moves, (start, end), lambda value: f"{value:.3f}")


def agreement(stretches: Sequence[Stretch], moves: Sequence[Move], start: float, end: float) -> Chart:
    points = [(each.at, each.agreement) for each in stretches]
    axis = Axis.share("agree", [value for _, value in points])
    return _line("Agreement of the answers", points, axis, moves, (start, end), percent)


def _line(
    title: str,
    points: Sequence[tuple[float, float]],
    axis: Axis,
    moves: Sequence[Move],
    span: tuple[float, float],
    text: Callable[[float], str],
) -> Chart:
    if not points:
        return Chart(title, "No query was answered in this time.")
    plot = Plot(title, time_axis(*span), axis, WIDTH, HEIGHT, LEFT)
    _marks(plot, moves, *span)
    plot.line(points, "first")
    for at, value in points:
        plot.mark((at, value), "first", "circle", size=2.2, hint=f"{clock(at, span[1] - span[0])}: {text(value)}")
    return Chart(title, f"From {text(points[0][1])} to {text(points[-1][1])}.", plot.svg())


def time_axis(start: float, end: float) -> Axis:
    """UTC; ticks at round moments."""
    end = max(end, start + 1.0)
    step = next((step for step in STEPS_S if (end - start) / step <= MOST_TICKS), STEPS_S[-1])
    first = -(-start // step) * step
    ticks = []
    while first <= end:
        ticks.append(first)
        first += step
    return Axis("UTC", start, end, tuple(ticks), lambda at: clock(at, end - start))


def clock(at: float, span_s: float) -> str:
    """A moment, as precisely as the span asks for."""
    form = "%H:%M:%S" if span_s < 600 else "%H:%M" if span_s < 86_400 else "%d %b %H h" if span_s < 432_000 else "%d %b"
    return time.strftime(form, time.gmtime(at))


def evidence(value: float, needed: float, worse: float) -> str:
    """Where the evidence of a gain stands between 1 (none) and what is asked for, by powers; and that of a loss."""
    most = max(needed, value, worse, 2.0) * 1.3
    axis = Axis("evidence", 0.0, _power(most), tuple(map(_power, _round(most))), lambda p: number(2.0**p))
    plot = Plot("evidence", axis, Axis("", 0, 2.7, (), number), 420, 136, LEFT)
    for row, (name, reached, style) in enumerate((("worse", worse, "loss"), ("better", value, "gain"))):
        plot.box((0.0, row + 0.2), (min(axis.high, max(_power(reached), 0.02)), row + 0.8), f"bar {style}")
        plot.text((0.0, row + 0.5), name, dx=-10, dy=4, anchor="end")
    plot.vertical(_power(needed), f"asked for: {number(needed)}")
    return plot.svg()


def _round(most: float) -> list[float]:
    ticks = [1.0]
    while ticks[-1] * 2 <= most and len(ticks) < 60:
        ticks.append(ticks[-1] * 2)
    return ticks[:: max(1, len(ticks) // 5)]


def _power(value: float) -> float:
    return math.log2(min(max(value, 1.0), 1e300))


def _marks(plot: Plot, moves: Sequence[Move], start: float, end: float) -> None:
    shown = [move for move in moves if start <= move.at <= end][-MOST_MARKS:]
    for move in shown:
        plot.rule(move.at, MARK_STYLES[move.kind], f"{clock(move.at, end - start)} {move.kind}: {move.detail}")


_SERVED = ("promoted", "settled", "rolled_back")
