"""The preview of the dashboards: every panel is on the page, with what was answered or that nothing was."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.grafana import preview

BOARDS = [json.loads(file.read_text("utf-8")) for file in Path(preview.__file__).parent.glob("dashboards/*.json")]
TITLES = [panel["title"] for board in BOARDS for panel in board["panels"] if panel["type"] != "row"]


def test_every_panel_is_drawn_from_what_was_answered() -> None:
    asked: list[str] = []

    def ask(expr: str) -> list[tuple[Mapping[str, str], preview.Values]]:
        asked.append(expr)
        values = [(0.0, 1.0), (30.0, math.nan), (60.0, 2.0)]
        return [({"workload": "w", "state": "<script>"}, values)]

    drawn = preview.draw(ask, 0.0, 60.0)
    assert drawn.panels == len(TITLES)
    assert drawn.empty == ()
    assert drawn.page.count("<section") == len(TITLES)
    assert "<script>" not in drawn.page
    assert not re.search(r"\bnan\b", drawn.page)
    assert not [expr for expr in asked if "$" in expr]


def test_panels_without_an_answer_are_named() -> None:
    drawn = preview.draw(lambda _: [], 0.0, 60.0)
    assert len(drawn.empty) == drawn.panels == len(TITLES)
    assert drawn.page.count("no data") == len(TITLES)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.25, "percentunit", "25 %"),
        (90, "s", "90 s"),
        (600, "s", "10 min"),
        (2**31, "bytes", "2 GiB"),
        (12_345, "none", "12,345"),
    ],
)
def test_units_are_written_as_the_dashboards_name_them(value: float, unit: str, text: str) -> None:
    assert preview.written(value, unit) == text


def test_a_panel_of_one_value_does_not_show_what_was_so_a_little_earlier() -> None:
    def ask(_: str) -> list[tuple[Mapping[str, str], preview.Values]]:
        return [({"adapter": "earlier"}, [(60.0, 1.0), (70.0, 1.0)]), ({"adapter": "now"}, [(99.5, 1.0)])]

    page = preview.draw(ask, 0.0, 100.0).page
    serving = page.partition("<h3>Serving</h3>")[2].partition("</section>")[0]
    assert "now" in serving
    assert "earlier" not in serving
