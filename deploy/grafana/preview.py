"""Every panel of the dashboards on one page, from what a Prometheus answers: to look at them without a Grafana.

    python -m deploy.grafana.preview http://127.0.0.1:9090 preview.html --hours 1

Owns the page. Asks what the committed dashboards ask, with their variables filled in as Grafana does by default.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from semievol.report.charts import MARKS, Axis, Plot, escape, number, percent, swatch

HERE = Path(__file__).parent / "dashboards"
ORDER = ("semievol", "semievol-drift", "semievol-rounds", "semievol-pipeline")
STYLES = ("first", "second", "third", "fourth")
MOST_SERIES = 12
POINTS = 150
LOOK_S = 60
"""Grafana's $__rate_interval for a scrape every 15 s."""

Values = list[tuple[float, float]]
Ask = Callable[[str], list[tuple[Mapping[str, str], Values]]]
"""An expression -> its series: labels, and (UTC seconds, value)."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The page, how many panels are on it, and the names of those for which there was nothing."""

    page: str
    panels: int
    empty: tuple[str, ...]


def asking(prometheus: str, start: float, end: float) -> Ask:
    """Asks a Prometheus for a range."""

    def ask(expr: str) -> list[tuple[Mapping[str, str], Values]]:
        query = {"query": expr, "start": start, "end": end, "step": _step_s(start, end)}
        with urlopen(f"{prometheus.rstrip('/')}/api/v1/query_range?{urlencode(query)}", timeout=30) as answer:
            found = json.load(answer)["data"]["result"]
        return [(each["metric"], [(float(at), float(value)) for at, value in each["values"]]) for each in found]

    return ask


def filled(expr: str) -> str:
    """With `All` for every variable."""
    variables = {"workload": ".*", "instance": ".*", "__rate_interval": f"{LOOK_S}s", "__range": "1h"}
    for name, value in variables.items():
        expr = expr.replace(f"${name}", value).replace(f"${{{name}}}", value)
    return expr


def draw(ask: Ask, start: float, end: float) -> Drawn:
    """All panels of all dashboards."""
    parts: list[str] = []
    empty: list[str] = []
    panels = 0
    for uid in ORDER:
        board = json.loads((HERE / f"{uid}.json").read_text("utf-8"))
        parts.append(f"<h1>{escape(board['title'])}</h1><div class='board'>")
        for panel in board["panels"]:
            if panel["type"] == "row":
                parts.append(f"</div><h2>{escape(panel['title'])}</h2><div class='board'>")
                continue
            panels += 1
            series = [
                (
                    _legend(target.get("legendFormat", ""), labels),
                    _finite(_now(values, start, end) if target.get("instant") else values),
                )
                for target in panel["targets"]
                for labels, values in ask(filled(target["expr"]))
            ]
            if not any(values for _, values in series):
                empty.append(f"{board['title']}: {panel['title']}")
            parts.append(_panel(panel, series, start, end))
        parts.append("</div>")
    page = PAGE.substitute(body="".join(parts), at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(end)))
    return Drawn(page, panels, tuple(empty))


def _panel(panel: Mapping[str, Any], series: Sequence[tuple[str, Values]], start: float, end: float) -> str:
    unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "none")
    shown = [(name, values) for name, values in series if values]
    if not shown:
        inner = "<p class='empty'>no data</p>"
    elif panel["type"] == "stat":
        by_name = panel.get("options", {}).get("textMode") == "name"
        inner = "".join(
            f"<p class='stat'>{_one(name, values[-1][1], unit, by_name=by_name, alone=len(shown) == 1)}</p>"
            for name, values in shown[:MOST_SERIES]
        )
    else:
        inner = _lines(panel["title"], shown[:MOST_SERIES], unit, start, end)
    return (
        f"<section style='grid-column: span {panel['gridPos']['w']}'>"
        f"<h3>{escape(panel['title'])}</h3>{inner}<p class='soft'>{escape(panel.get('description', ''))}</p></section>"
    )


def _one(name: str, value: float, unit: str, *, by_name: bool, alone: bool) -> str:
    """What a stat says of one series; which one, where there are several."""
    if by_name:
        return escape(name)
    said = escape(written(value, unit))
    return said if alone else f"{said} <small>{escape(name)}</small>"


def _step_s(start: float, end: float) -> float:
    """Between two points of a range."""
    return max(1.0, (end - start) / POINTS)


def _now(values: Values, start: float, end: float) -> Values:
    """The last value, if it is one of the last point of the range: what an instant query answers."""
    return [each for each in values[-1:] if each[0] > end - _step_s(start, end)]


def _lines(title: str, series: Sequence[tuple[str, Values]], unit: str, start: float, end: float) -> str:
    y_axis = Axis.around("", [v for _, values in series for _, v in values], lambda v: written(v, unit), zero=True)
    ticks = tuple(start + n * (end - start) / 4 for n in range(5))
    x_axis = Axis("UTC", start, end, ticks, lambda at: time.strftime("%H:%M", time.gmtime(at)))
    plot = Plot(title, x_axis, y_axis, 520, 250)
    legend = []
    for place, (name, values) in enumerate(series):
        style = f"{STYLES[place % 4]} dashed-{place // 4}" if place >= 4 else STYLES[place]
        plot.line(values, style)
        plot.mark(values[-1], style, MARKS[place % 4], size=3, hint=f"{name}: {written(values[-1][1], unit)}")
        legend.append(f"<li>{swatch(style, MARKS[place % 4])}{escape(name)}</li>")
    return f"{plot.svg()}<ul class='legend'>{''.join(legend)}</ul>"


def written(value: float, unit: str) -> str:
    """As Grafana writes the units that the dashboards have."""
    if unit == "percentunit":
        return percent(value)
    if unit in ("s", "dtdurations"):
        return f"{number(value)} s" if value < 120 else f"{number(value / 60)} min"
    if unit == "dateTimeFromNow":
        return time.strftime("%H:%M UTC", time.gmtime(value / 1000))
    if unit == "bytes":
        return f"{number(value / 2**30)} GiB" if value >= 2**30 else f"{number(value / 2**20)} MiB"
    return number(value)


def _legend(form: str, labels: Mapping[str, str]) -> str:
    for key, value in labels.items():
        form = form.replace(f"{{{{{key}}}}}", value)
    return form or ", ".join(value for key, value in labels.items() if key not in ("workload", "__name__")) or "value"


def _finite(values: Values) -> Values:
    return [(at, value) for at, value in values if math.isfinite(value)]


PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Dashboards</title><style>
:root { --page: #fbfbfa; --card: #fff; --ink: #1c1e21; --soft: #5a6069; --hair: #d9dce0; --grid: #e8eaed;
  --first: #0064a4; --second: #b8480b; --third: #00795a; --fourth: #93487a; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1b1e23; --ink: #e7e9ec; --soft: #a4abb5;
  --hair: #353a42; --grid: #2a2f36; --first: #5cb3ee; --second: #f0915a; --third: #35c29b; --fourth: #dc9bc6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: 24px; background: var(--page); color: var(--ink);
  font: 14px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 34px 0 8px; }
h2 { font-size: 17px; margin: 22px 0 8px; }
h3 { font-size: 14px; margin: 0 0 6px; }
.board { display: grid; grid-template-columns: repeat(24, minmax(0, 1fr)); gap: 12px; }
section { background: var(--card); border: 1px solid var(--hair); border-radius: 10px; padding: 12px;
  overflow-wrap: anywhere; }
@media (max-width: 900px) { section { grid-column: span 24 !important; } }
.stat { font-size: 22px; font-weight: 600; margin: 4px 0; }
.stat small { font-size: 13px; font-weight: 400; color: var(--soft); }
.soft { color: var(--soft); font-size: 12px; margin: 6px 0 0; }
.empty { border: 1px dashed var(--hair); border-radius: 8px; padding: 26px 0; text-align: center; margin: 0;
  color: var(--soft); }
.legend { list-style: none; margin: 4px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 12px; }
.legend li { display: flex; gap: 5px; align-items: center; font-size: 12px; }
svg { display: block; width: 100%; height: auto; }
svg.swatch { width: 22px; height: 14px; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg text.tick, svg text.name { fill: var(--soft); }
.grid { stroke: var(--grid); }
.axis { stroke: var(--soft); fill: none; }
.first { stroke: var(--first); fill: var(--first); }
.second { stroke: var(--second); fill: var(--second); }
.third { stroke: var(--third); fill: var(--third); }
.fourth { stroke: var(--fourth); fill: var(--fourth); }
.line { fill: none; stroke-width: 2; }
.dashed-1 { stroke-dasharray: 7 4; }
.dashed-2 { stroke-dasharray: 2 3; }
</style></head><body><p class="soft">$at</p>$body</body></html>
""")


def main() -> int:
    """Draw, and say which panels are empty."""
    parser = argparse.ArgumentParser(description="Draw every panel of the dashboards from a Prometheus.")
    parser.add_argument("prometheus", help="its address")
    parser.add_argument("page", type=Path, help="the file to write")
    parser.add_argument("--hours", type=float, default=1.0, help="how far back")
    options = parser.parse_args()
    end = time.time()
    start = end - 3_600 * options.hours
    try:
        drawn = draw(asking(options.prometheus, start, end), start, end)
    except OSError as failure:
        print(
            f"preview: {options.prometheus} does not answer: {failure}; set PROMETHEUS=http://host:port",
            file=sys.stderr,
        )
        return 1
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(drawn.page, "utf-8")
    print(f"{options.page}: {drawn.panels} panels, {len(drawn.empty)} without data")
    for name in drawn.empty:
        print(f"  nothing for {name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
