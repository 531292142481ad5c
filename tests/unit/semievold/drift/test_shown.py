"""Drift where people look: the API, and what the leader exports."""

from __future__ import annotations

from semievold.store.drift.events import Alarm
from tests.control_roles import Roles
from tests.control_world import ControlWorld, OpenWorld


async def alarmed(open_world: OpenWorld, **settings: object) -> ControlWorld:
    """A world with one event, which was raised before it had these settings."""
    world = open_world(**settings)
    await world.here.lead()
    drift = world.here.stores.drift
    position = drift.position()
    alarm = Alarm("input", None, None, "tell", {"said": "queries are strange", "statistic": 9.0, "alarm_line": 5.0})
    assert drift.advance(position, position._replace(query_id="q"), {}, (), [alarm], {})
    assert not drift.advance(position, position, {}, (), [alarm], {})
    return world


async def test_the_api_shows_events_and_sets_a_new_reference(open_world: OpenWorld) -> None:
    world = await alarmed(open_world)
    async with Roles(world).api() as client:
        seen = await (await client.get("/v1/drift")).json()
        assert [(each["number"], each["said"]) for each in seen["events"]] == [(1, "queries are strange")]
        assert (await (await client.get("/v1/drift/1")).json())["evidence"]["statistic"] == 9.0
        assert (await client.get("/v1/drift/2")).status == 404
        assert (await (await client.get("/v1/status")).json())["drift"]["event"]["number"] == 1
        assert (await client.post("/v1/drift/rearm", json={"reason": 7})).status == 400
        assert (await client.post("/v1/drift/rearm", json={"why": "x"})).status == 400
        answer = await client.post("/v1/drift/rearm", json={"reason": "it stays"})
        assert await answer.json() == {"rearmed": True, "closed": 1}
        assert (await (await client.get("/v1/status")).json())["drift"]["event"] is None
    assert world.stores.drift.event(1).closed_by == "it stays"


async def exported(world: ControlWorld) -> str:
    roles = Roles(world)
    world.here.start()
    await world.until(lambda: world.here.control.leads)
    await roles.state_watch.look()
    return roles.metrics.render().decode()


async def test_an_open_event_is_exported(open_world: OpenWorld) -> None:
    text = await exported(await alarmed(open_world))
    assert 'semievol_drift_open{workload="w"} 1.0' in text
    assert 'semievol_drift_events{kind="input",workload="w"} 1.0' in text
    assert 'semievol_drift_watched{kind="input",workload="w"} 0.0' in text
    assert 'semievol_accuracy_without_labels_valid{workload="w"} 0.0' in text


async def test_an_open_event_waits_for_nobody_once_drift_is_switched_off(open_world: OpenWorld) -> None:
    world = await alarmed(open_world, drift={"enabled": False})
    assert world.stores.drift.open_event() is not None
    text = await exported(world)
    assert 'semievol_drift_open{workload="w"} 0.0' in text
    assert 'semievol_drift_events{kind="input",workload="w"} 1.0' in text
    async with Roles(world).api() as client:
        seen = await (await client.get("/v1/drift")).json()
    assert (seen["enabled"], seen["kinds"], seen["accuracy"]) == (False, {}, None)
