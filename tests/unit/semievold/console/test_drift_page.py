"""Drift at the console: what is watched, an event with its queries, and a new reference by a button."""

from __future__ import annotations

import sqlalchemy as sa

from semievold.store.tables import drift_events
from tests.console_browser import Browser
from tests.control_roles import Roles
from tests.control_world import WORKLOAD, ControlWorld, OpenWorld

HOSTILE = "<script>alert(1)</script>"
EVIDENCE = {
    "said": f"queries are less like the examples: 0.30 on average, 0.70 or more before {HOSTILE}",
    "since": 1_700_000_000.0,
    "queries": 120,
    "statistic": 1_250.0,
    "alarm_line": 1_000.0,
    "words": ["visa", HOSTILE],
    "nearest_examples": [{"id": "e1", "queries": 80, "answer": "odd"}],
    "categories": {HOSTILE: 0.5},
    "answers": {"odd": 1.0},
    "moved_most": [{"id": "q/1", "question": f"a visa {HOSTILE}", "answer": None, "similarity": 0.25, "sureness": 0.5}],
}


def happened(world: ControlWorld) -> None:
    """An event as the watch keeps it (tests/unit/semievold/drift has how it comes about)."""
    row = {
        "workload": WORKLOAD,
        "number": 1,
        "kind": "input",
        "category": HOSTILE,
        "adapter": None,
        "actions": ["tell"],
        "evidence": EVIDENCE,
        "also": [{"kind": "confidence"}],
        "at": world.now(),
    }
    with world.database.write() as connection:
        connection.execute(sa.insert(drift_events).values(**row))


async def test_where_nothing_drifted_the_page_says_so(open_world: OpenWorld) -> None:
    async with Roles(open_world()).api() as client:
        assert "No drift has been found" in await (await Browser.logged_in(client)).reads("/drift")


async def test_where_drift_is_not_watched_the_page_says_so(open_world: OpenWorld) -> None:
    async with Roles(open_world(drift={"enabled": False})).api() as client:
        assert "Drift is not watched" in await (await Browser.logged_in(client)).reads("/drift")


async def test_where_drift_is_not_watched_an_open_event_asks_for_nobody(open_world: OpenWorld) -> None:
    world = open_world(drift={"enabled": False})
    happened(world)
    async with Roles(world).api() as client:
        assert '<span class="badge">' not in await (await Browser.logged_in(client)).opens("/drift")


async def test_an_event_is_shown_with_its_queries_and_closed_by_a_new_reference(open_world: OpenWorld) -> None:
    world = open_world()
    happened(world)
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        page = await browser.opens("/drift")
        assert HOSTILE not in page
        assert '<span class="badge">1</span>' in page
        told = await browser.reads("/drift")
        for each in (
            "Event 1: input in",
            "less like the examples: 0.30 on average",
            "1,250, the alarm is at 1,000",
            "They speak of visa",
            "e1 odd (80)",
            "then also confidence",
            "0.250 0.500",
        ):
            assert each in told, each
        assert "closed by by hand, in the console" in await browser.follows("/do/rearm")
        assert world.stores.drift.open_event() is None
