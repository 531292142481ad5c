"""The dashboards of deploy/grafana: they are what the code makes, ask for what exists, and keep the linter's rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievold.monitoring.metrics_page import declared
from semievold.monitoring.sync_metrics import SIDECAR
from tests.servers import unavailable

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = DEPLOY / "prometheus" / "rules"
HERE = DEPLOY / "grafana" / "dashboards"
BOARDS = ("semievol", "semievol-drift", "semievol-rounds", "semievol-pipeline")
STORED: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text("utf-8")) for path in HERE.glob("*.json")}
ASKED = [
    (uid, panel["title"], target["expr"])
    for uid, board in STORED.items()
    for panel in board["panels"]
    for target in panel.get("targets", [])
]


def panels(uid: str) -> list[dict[str, Any]]:
    return [panel for panel in STORED[uid]["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("uid", BOARDS)
def test_a_dashboard_is_what_the_code_makes(uid: str) -> None:
    try:
        from deploy.grafana.boards import rendered
    except ImportError:
        unavailable("the package grafana-foundation-sdk is missing; `make setup` brings it")
    assert (HERE / f"{uid}.json").read_text("utf-8") == rendered(uid), "make dashboards"


def test_there_are_these_four_and_no_other() -> None:
    assert STORED.keys() == set(BOARDS)
    assert all(board["uid"] == uid and board["editable"] is False for uid, board in STORED.items())


def test_every_expression_asks_for_metrics_that_exist_or_are_recorded() -> None:
    exported = {sample for metric in declared() for sample in metric.samples}
    recorded = {
        rule.get("record")
        for group in yaml.safe_load((RULES / "recording.yml").read_text("utf-8"))["groups"]
        for rule in group["rules"]
    }
    annotations = [
        (uid, each["name"], each["expr"]) for uid, board in STORED.items() for each in board["annotations"]["list"]
    ]
    assert len(ASKED) > 80
    for uid, title, expr in [*ASKED, *annotations]:
        asked = set(re.findall(r"\bsemievol_\w+", expr))
        assert asked <= exported, (uid, title, asked - exported)
        assert set(re.findall(r"\bsemievol:[\w:]+", expr)) <= recorded, (uid, title)


def test_every_metric_that_is_exported_is_on_a_dashboard() -> None:
    text = " ".join(expr for _, _, expr in ASKED)
    # The boards are of one workload; `semievold sync-adapters` serves all that share its engine.
    of_a_workload = [each for each in declared() if each.by != SIDECAR]
    unseen = {each.full_name for each in of_a_workload if not any(name in text for name in each.samples)}
    assert not unseen


@pytest.mark.parametrize("uid", BOARDS)
def test_a_dashboard_keeps_the_rules_of_grafanas_linter(uid: str) -> None:
    board = STORED[uid]
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert {"workload", "instance"} <= variables.keys()
    seen = panels(uid)
    assert len({panel["id"] for panel in seen}) == len(seen)
    assert len({panel["title"] for panel in seen}) == len(seen)
    for panel in seen:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            expr = target["expr"]
            assert target["datasource"]["uid"] == "${datasource}"
            assert "$workload" in expr or "$instance" in expr or "ALERTS" in expr, expr
            assert re.findall(r"rate\([^\[]*\[([^\]]+)\]", expr) == ["$__rate_interval"] * expr.count("rate("), expr
            assert "rate(sum" not in expr
            assert not re.search(r"(?<!rate\()semievol_\w+_total\{", expr), f"a counter without a rate: {expr}"


@pytest.mark.parametrize("uid", BOARDS)
def test_panels_fill_rows_of_24_columns_without_overlap(uid: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in STORED[uid]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_a_dashboard_links_to_the_others() -> None:
    for uid, board in STORED.items():
        assert {link["url"] for link in board["links"]} == {f"/d/{other}" for other in BOARDS if other != uid}
