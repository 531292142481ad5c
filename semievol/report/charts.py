"""Charts as inline SVG strings: axes with ticks and units, marks that differ by shape as well as by colour.

Owns geometry and escaping; not what is plotted (semievol.report.page) nor colours and fonts (the template's style
sheet, by class name, so that one page serves light and dark). Invariant: no function fails on empty or constant data,
and no text from outside enters a page unescaped.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from semievol.plain_lines import plain

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 66, 20, 18, 50
CHARACTER = 6.7  # width of a character at the charts' 12 px, on average

Point = tuple[float, float]
Mark = Literal["circle", "square", "diamond", "triangle"]
Format = Callable[[float], str]
MARKS: tuple[Mark, ...] = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: its name with the unit, its range, and how its ticks are written."""

    name: str
    low: float
    high: float
    ticks: tuple[float, ...]
    text: Format

    @classmethod
    def around(cls, name: str, values: Sequence[float], text: Format | None = None, *, zero: bool = False) -> Axis:
        """An axis whose ends are round numbers around `values`; `zero` makes it begin at 0."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = (0.0 if zero else min(finite)), max(finite)
        if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):  # nearer than tick labels, and floats, can tell apart
            low, high = low - (0 if zero else 0.5), high + 0.5
        step = _round_step((high - low) / 5)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = tuple(n * step for n in range(first, last + 1))
        return cls(name, ticks[0], ticks[-1], ticks, text or number)

    @classmethod
    def share(cls, name: str, values: Sequence[float] = (0.0,)) -> Axis:
        """Shares in percent, from a round number below the least value up to 100 %."""
        low = max(0.0, math.floor(min([1.0, *values]) * 10 - 1e-9) / 10)
        if low > 0.8:
            low = 0.8
        step = 0.05 if low >= 0.75 else 0.1 if low >= 0.4 else 0.2
        start = math.ceil(low / step - 1e-9)
        ticks = tuple(n * step for n in range(start, round(1 / step) + 1))
        return cls(name, min(low, ticks[0]), 1.0, ticks, percent)

    @classmethod
    def categories(cls, name: str, labels: Sequence[str]) -> Axis:
        """Equally spaced positions 0, 1, ...; of many labels every n-th is written."""
        room = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
        widest = max((len(label) for label in labels), default=1) * CHARACTER + 10
        every = max(1, math.ceil(widest / room))
        ticks = tuple(float(n) for n in range(0, len(labels), every))
        return cls(name, -0.5, max(0.5, len(labels) - 0.5), ticks, lambda n: labels[round(n)])


@dataclass(slots=True)
class Plot:
    """A chart under construction; x and y turn values into pixels.

    Draw from back to front, then `svg()`.
    """

    title: str
    x_axis: Axis
    y_axis: Axis
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    vertical_grid: bool = False
    _parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        return self._place(value, self.x_axis, self.left, self.width - RIGHT)

    def y(self, value: float) -> float:
        return self._place(value, self.y_axis, self.height - BOTTOM, TOP)

    @staticmethod
    def _place(value: float, axis: Axis, start: float, end: float) -> float:
        share = (value - axis.low) / (axis.high - axis.low)
        return round(start + min(1.0, max(0.0, share)) * (end - start), 2)

    def line(self, points: Sequence[Point], style: str, *, stepped: bool = False) -> None:
        """A polyline; `stepped` holds each value until the next point."""
        if stepped:
            points = [p for a, b in pairwise(points) for p in (a, (b[0], a[1]))] + [*points[-1:]]
        if len(points) > 1:
            path = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
            self._parts.append(f'<polyline class="line {style}" points="{path}"/>')

    def mark(self, at: Point, style: str, shape: Mark, *, size: float = 4.5, hint: str = "") -> None:
        """A point marker; `hint` shows on hover."""
        self._parts.append(_mark(self.x(at[0]), self.y(at[1]), style, shape, size, hint))

    def interval(self, x: float, low: float, high: float, style: str) -> None:
        """A vertical whisker from low to high."""
        px, top, bottom = self.x(x), self.y(high), self.y(low)
        self._parts.append(
            f'<path class="whisker {style}" d="M{px} {top}V{bottom}M{px - 4} {top}h8M{px - 4} {bottom}h8"/>'
        )

    def box(self, corner: Point, opposite: Point, style: str, *, hint: str = "") -> None:
        """A filled rectangle between two corners in data units."""
        xs, ys = sorted((self.x(corner[0]), self.x(opposite[0]))), sorted((self.y(corner[1]), self.y(opposite[1])))
        self._parts.append(
            f'<rect class="{style}" x="{xs[0]}" y="{ys[0]}" width="{max(0.5, xs[1] - xs[0]):.2f}" '
            f'height="{ys[1] - ys[0]:.2f}">{_hint(hint)}</rect>'
        )

    def text(self, at: Point, content: str, *, dx: float = 0, dy: float = 0, anchor: str = "middle") -> None:
        """Text at a data point, moved by pixels and kept inside the chart."""
        half = len(content) * CHARACTER * (0.5 if anchor == "middle" else 1)
        px = self.x(at[0]) + dx
        if anchor == "middle":
            px = min(max(px, half), self.width - half)
        elif anchor == "start" and px + half > self.width:
            px, anchor = px - 2 * dx, "end"
        py = min(max(self.y(at[1]) + dy, 12), self.height - BOTTOM + 12)
        self._parts.append(
            f'<text class="value" x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
        )

    def vertical(self, value: float, label: str = "", *, row: int = 0) -> None:
        """A dashed line across the chart; labels of near lines go on different rows."""
        px = self.x(value)
        self._parts.append(f'<path class="rule" d="M{px} {TOP}V{self.height - BOTTOM}"/>')
        if label:
            self.text((value, self.y_axis.high), label, dx=5, dy=11 + 15 * row, anchor="start")

    def rule(self, value: float, style: str, hint: str) -> None:
        """A thin line across the chart, with a small foot on its axis; `hint` shows on hover."""
        px, floor = self.x(value), self.height - BOTTOM
        self._parts.append(
            f'<g class="moment {style}"><path d="M{px} {TOP}V{floor}"/>'
            f'<path class="foot" d="M{px - 5} {TOP - 8}h10l-5 8z"/>{_hint(hint)}</g>'
        )

    def diagonal(self) -> None:
        """The dashed line y = x."""
        a, b = self.x_axis, self.y_axis
        low, high = max(a.low, b.low), min(a.high, b.high)
        self._parts.append(f'<path class="rule" d="M{self.x(low)} {self.y(low)}L{self.x(high)} {self.y(high)}"/>')

    def svg(self) -> str:
        """The finished chart."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(self.title)}">'
            f"{self._frame()}{''.join(self._parts)}</svg>"
        )

    def _frame(self) -> str:
        floor, parts = self.height - BOTTOM, []
        for tick in self.y_axis.ticks:
            py = self.y(tick)
            label = escape(self.y_axis.text(tick))
            parts.append(f'<path class="grid" d="M{self.left} {py}H{self.width - RIGHT}"/>')
            parts.append(f'<text class="tick" x="{self.left - 8}" y="{py + 4}" text-anchor="end">{label}</text>')
        for tick in self.x_axis.ticks:
            px = self.x(tick)
            label = escape(self.x_axis.text(tick))
            if self.vertical_grid:
                parts.append(f'<path class="grid" d="M{px} {TOP}V{floor}"/>')
            parts.append(f'<path class="axis" d="M{px} {floor}v4"/>')
            parts.append(f'<text class="tick" x="{px}" y="{floor + 18}" text-anchor="middle">{label}</text>')
        parts.append(f'<path class="axis" d="M{self.left} {floor}H{self.width - RIGHT}"/>')
        middle = (self.left + self.width - RIGHT) / 2
        below = escape(self.x_axis.name)
        parts.append(f'<text class="name" x="{middle}" y="{self.height - 8}" text-anchor="middle">{below}</text>')
        if self.y_axis.name:
            half = (TOP + floor) / 2
            parts.append(
                f'<text class="name" x="13" y="{half}" text-anchor="middle" '
                f'transform="rotate(-90 13 {half})">{escape(self.y_axis.name)}</text>'
            )
        return "".join(parts)


def swatch(style: str, kind: Mark | Literal["box", "line"]) -> str:
    """The legend's small picture of a mark, a box or a line."""
    if kind == "box":
        inner = f'<rect class="{style}" x="2" y="2" width="18" height="10"/>'
    else:
        inner = f'<path class="line {style}" d="M1 7H21"/>'
        inner += "" if kind == "line" else _mark(11, 7, style, kind, 4, "")
    return f'<svg class="swatch" viewBox="0 0 22 14" aria-hidden="true">{inner}</svg>'


def dumbbells(title: str, rows: Sequence[tuple[str, float, float]], before: str, after: str) -> str:
    """One line a category: a hollow mark before, a filled one after, joined. Values are shares in [0, 1]."""
    widest = max((len(name) for name, _, _ in rows), default=0)
    left = int(min(220, max(80, widest * CHARACTER + 16)))
    step = 24
    height = TOP + BOTTOM + step * max(1, len(rows))
    lows = [min(a, b) for _, a, b in rows]
    axis = Axis.share("accuracy", lows)
    plot = Plot(title, axis, Axis("", 0, max(1, len(rows)), (), number), height=height, left=left, vertical_grid=True)
    longest = int(left / CHARACTER) - 2
    for n, (name, old, new) in enumerate(rows):
        y = len(rows) - n - 0.5
        short = name if len(name) <= longest else name[: longest - 1] + "…"
        plot.text((axis.low, y), short, dx=-10, dy=4, anchor="end")
        plot.line([(old, y), (new, y)], "gain" if new >= old else "loss")
        plot.mark((old, y), "before hollow", "circle", hint=f"{name}: {before} {percent(old)}")
        plot.mark((new, y), "gain" if new >= old else "loss", "diamond", size=5, hint=f"{name}: {after} {percent(new)}")
    return plot.svg()


def number(value: float) -> str:
    """A tick label without noise: 0, 0.25, 1.5, 300, 12,000."""
    return "0" if abs(value) < 1e-12 else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _round_step(raw: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `raw`."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))


def _mark(px: float, py: float, style: str, shape: Mark, size: float, hint: str) -> str:
    s = round(size, 2)
    outlines = {
        "circle": f"M{px - s} {py}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0z",
        "square": f"M{px - s} {py - s}h{2 * s}v{2 * s}h{-2 * s}z",
        "diamond": f"M{px} {py - s * 1.2}L{px + s * 1.2} {py}L{px} {py + s * 1.2}L{px - s * 1.2} {py}z",
        "triangle": f"M{px} {py - s * 1.2}L{px + s * 1.15} {py + s}L{px - s * 1.15} {py + s}z",
    }
    return f'<path class="mark {style}" d="{outlines[shape]}">{_hint(hint)}</path>'


def _hint(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def escape(text: str) -> str:
    """A text as a page shows it."""
    return html.escape(plain(text))
