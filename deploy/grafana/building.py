"""What every dashboard has alike: variables, annotations, links, and panels with a title, a description and a unit.

Owns the form; what is asked is in `boards`. A panel is made from one `Panel` value, so that the rules that hold for all
(datasource by variable, ids, places, not editable) are kept in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import BigValueColorMode, BigValueTextMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    VariableRefresh,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
BOARDS = {
    "semievol": "Is it learning, is it safe",
    "semievol-drift": "Confidence and accuracy drift",
    "semievol-rounds": "Rounds, gate and adapters",
    "semievol-pipeline": "Pipeline and replicas",
}
"""Title by address; the first is Grafana's home."""
W = 'workload=~"$workload"'
I = 'workload=~"$workload", instance=~"$instance"'  # noqa: E741


@dataclass(frozen=True)
class Panel:
    """`asks`: expression and legend of each query; `span` of 24 columns."""

    title: str
    description: str
    unit: str
    asks: Sequence[tuple[str, str]]
    kind: Literal["stat", "lines"] = "lines"
    span: int = 8
    height: int = 7
    names: bool = False  # a stat that shows the name of its series


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


ANNOTATIONS = (
    ("Alias moved", "blue", f"changes(max by (workload) (semievol_alias_generation{{{W}}})[1m:10s]) > 0"),
    (
        "Rolled back",
        "red",
        f'changes(max by (workload) (semievol_last_round_outcome{{{W}, outcome="rolled_back"}})[1m:10s]) > 0',
    ),
    ("Frozen or thawed", "purple", f"changes(max by (workload) (semievol_frozen{{{W}}})[1m:10s]) > 0"),
)


def board(uid: str, rows: Sequence[Row]) -> dashboard.Dashboard:
    """A dashboard with these rows, each below the one before."""
    made = (
        dashboard.Dashboard(f"SemiEvol: {BOARDS[uid]}")
        .uid(uid)
        .tags(["semievol"])
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("workload", "Workload", "label_values(semievol_role, workload)"))
        .with_variable(_variable("instance", "Process", f"label_values(semievol_role{{{W}}}, instance)"))
    )
    for name, colour, expr in ANNOTATIONS:
        made.annotation(
            dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(colour).expr(expr)
        )
    for other, title in BOARDS.items():
        if other != uid:
            link = dashboard.DashboardLink(title).type(DashboardLinkType.LINK).url(f"/d/{other}")
            made.link(link.include_vars(True).keep_time(True))
    number = 0
    for row in rows:
        made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            number += 1
            made.with_panel(_panel(panel, number))
    return made


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    made = dashboard.QueryVariable(name).label(label).datasource(SOURCE).query(query)
    return made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).include_all(True).multi(True)


def _panel(panel: Panel, number: int) -> Any:
    made: Any = _stat(panel) if panel.kind == "stat" else _lines()
    made.id(number).title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    made.span(panel.span).height(panel.height)
    for place, (expr, legend) in enumerate(panel.asks):
        asked = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(chr(ord("A") + place))
        if panel.kind == "stat":  # over a range, what was so earlier would stand beside what is
            asked = asked.instant()
        made.with_target(asked.datasource(SOURCE))
    return made


def _stat(panel: Panel) -> stat.Panel:
    newest = common.ReduceDataOptions().calcs(["lastNotNull"])
    made = stat.Panel().reduce_options(newest).color_mode(BigValueColorMode.NONE)
    return made.text_mode(BigValueTextMode.NAME) if panel.names else made


def _lines() -> timeseries.Panel:
    return timeseries.Panel().fill_opacity(8).line_width(2)
