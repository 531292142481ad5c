"""The report of a run: one HTML file that needs nothing else, made from a ReportData.

Owns the page; its values are in report.data, its figures in report_figures. Does not gather anything. Invariant:
whatever is missing in the data, the page renders, and says what is missing where the figure would be.
"""

from __future__ import annotations

import math
from pathlib import Path

import jinja2

from semievol.durable_files import write_durably
from semievol.plain_lines import plain
from semievol.report.data import ReportData, headline
from semievol.report.figures import figures


def render(data: ReportData) -> str:
    """The whole page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("semievol.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, signed_points=_signed_points, nats=_nats, seconds=_seconds)
    page = environment.get_template("report.html.jinja")
    return page.render(data=data, headline=headline(data), figures=figures(data))


def write(data: ReportData, path: Path) -> None:
    """Write the page to `path` in one step: readers see the old page or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, render(data))


def _shown(value: object) -> object:
    """What a page shows: text from outside without what would turn the direction of the rest, or end a line."""
    return plain(value) if type(value) is str else value


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _signed_points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _nats(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} s" if value < 120 else f"{int(value) // 60} min {int(value) % 60} s"
