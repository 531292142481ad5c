"""The admin API before a controller that answers, waits or refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from semievol.errors import TransientError
from semievold.api.api import REQUEST_WAIT_S
from tests.control_roles import Roles
from tests.control_world import ControlWorld, OpenWorld


async def serving(world: ControlWorld) -> str:
    """Control goes on over a version that serves; its name."""
    await world.here.lead()
    name = await world.version()
    world.here.stores.alias.move(name)
    world.here.start()
    await world.until(lambda: world.here.control.leads)
    return name


async def test_a_serving_version_that_breaks_is_not_ready_with_the_reason_and_ready_again_when_mended(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    await world.here.lead()
    name = await world.version()
    weights = world.place.adapters / name / "adapter_model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1])
    world.here.stores.alias.move(name)
    async with Roles(world).api() as client:
        world.here.start()
        await world.until(lambda: world.here.control.leads)
        answer = await client.get("/readyz")
        reason = f"{weights.parent}: {weights.name} is truncated, {len(sound) - 1} of {len(sound)} bytes"
        assert answer.status == 503
        assert (await answer.json())["waiting_for"] == {"adapter": reason}
        assert (await client.get("/healthz")).status == 200  # it lives on, for an operator to mend it
        weights.write_bytes(sound)
        await world.until(lambda: world.here.fleet.defect is None)
        answer = await client.get("/readyz")
        assert answer.status == 200
        seen = await answer.json()
        assert (seen["ready"], seen["waiting_for"]) == (True, {})


async def test_a_controller_whose_component_is_away_is_not_ready_with_the_reason(open_world: OpenWorld) -> None:
    world = open_world()
    world.labels_lag = TransientError("the stream is away")
    async with Roles(world).api() as client:
        world.here.start()
        await world.until(lambda: world.here.control.last_error)
        answer = await client.get("/readyz")
        assert answer.status == 503
        assert (await answer.json())["waiting_for"] == {"control": "the stream is away"}


async def test_readiness_and_metrics_need_no_token_and_the_rest_does(open_world: OpenWorld) -> None:
    async with Roles(open_world()).api() as client:
        nobody = {"Authorization": ""}
        for path in ("/readyz", "/healthz", "/metrics"):
            assert (await client.get(path, headers=nobody)).status == 200
        for path in ("/v1/status", "/v1/rounds"):
            assert (await client.get(path, headers=nobody)).status == 401


async def test_a_request_that_is_carried_out_is_answered_with_its_result(open_world: OpenWorld) -> None:
    world = open_world()
    name = await serving(world)
    async with Roles(world).api() as client:
        answer = await client.post("/v1/rollback")
        assert answer.status == 200
        assert await answer.json() == {"request": 1, "state": "done", "from": name, "to": None}


async def test_a_request_that_is_refused_is_answered_as_refused_and_the_next_is_carried_out(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    name = await serving(world)
    async with Roles(world).api() as client:
        answer = await client.post(f"/v1/adapters/{name}/promote")
        assert answer.status == 409
        assert await answer.json() == {"request": 1, "state": "refused", "error": f"adapter {name} serves already"}
        answer = await client.post("/v1/rounds/7/cancel")
        assert answer.status == 409
        assert (await answer.json())["error"] == "there is no round 7"
        answer = await client.post("/v1/rounds", json={"kind": "warm", "reason": "a drill"})
        assert (answer.status, (await answer.json())["round"]) == (200, 1)
    assert world.round(1).trigger == "a drill"


async def test_a_request_that_nobody_answers_in_time_stays_and_is_answered_as_pending(open_world: OpenWorld) -> None:
    world = open_world()
    async with Roles(world).api() as client:
        asked = world.loop.time()
        answer = await client.post("/v1/rollback")
        assert answer.status == 202
        assert await answer.json() == {"request": 1, "state": "pending"}
        assert world.loop.time() - asked == pytest.approx(REQUEST_WAIT_S, abs=1)
    assert [request.kind for request in world.stores.requests.pending()] == ["rollback"]


async def test_the_status_says_who_leads_and_what_is_waited_for(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    async with Roles(world).api() as client:
        standing_by = await (await client.get("/v1/status")).json()
        assert (standing_by["leader"], standing_by["serving"], standing_by["lease"]) == (False, None, None)
        world.here.start()
        settled = await world.ended(0)
        await world.passes(1)
        status = await (await client.get("/v1/status")).json()
    assert (status["leader"], status["waiting_for"]) == (True, "0 of 10 new pseudo-labels")
    assert (status["serving"], status["promotions"], status["round"]) == (settled.adapter, 1, None)
    assert status["examples"] == {"training": 10, "holdout": 30, "retracted": 0}
    assert status["lease"]["holder"] == world.here.lease.holder


async def test_the_status_says_how_fast_queries_are_answered_and_how_many_wait(open_world: OpenWorld) -> None:
    world = open_world()
    roles = Roles(world)
    roles.intake.counters.lag = 30_000
    world.ask(range(5))
    await asyncio.sleep(50.0)
    world.ask(range(5, 8))
    async with roles.api() as client:
        status = await (await client.get("/v1/status")).json()
        assert (status["answers_a_minute"], status["queries_waiting"]) == (8, 30_000)
        await asyncio.sleep(20.0)
        assert (await (await client.get("/v1/status")).json())["answers_a_minute"] == 3


async def test_what_there_is_not_is_not_found(open_world: OpenWorld) -> None:
    async with Roles(open_world()).api() as client:
        for path in ("/v1/rounds/3", "/v1/adapters/nothing", "/v1/explain/q1"):
            assert (await client.get(path)).status == 404


async def listed(client: TestClient[Any, Any], limit: int) -> list[str]:
    return [each["name"] for each in await (await client.get(f"/v1/adapters?limit={limit}")).json()]


async def test_lists_show_the_newest(open_world: OpenWorld) -> None:
    world = open_world()
    await world.here.take_lease()
    names = [await world.version() for _ in range(3)]
    async with Roles(world).api() as client:
        rounds = await (await client.get("/v1/rounds?limit=2")).json()
        assert [each["number"] for each in rounds] == [2, 1]
        assert await listed(client, 1) == names  # what is there is never left out
        for deleted in names[:2]:
            world.stores.adapters.mark(deleted, "deleted")
        assert await listed(client, 2) == names[1:]
        assert await listed(client, 1) == names[2:]
        assert len(await (await client.get("/v1/rounds")).json()) == 3


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/v1/status?verbose=1", "verbose: unknown parameter; none is known here"),
        ("/v1/rounds/0?limit=5", "limit: unknown parameter; none is known here"),
        ("/v1/rounds?limit=-5", "limit: '-5' is no number from 1 to 1000"),
        ("/v1/adapters?limit=all", "limit: 'all' is no number from 1 to 1000"),
        ("/v1/rounds?limit=00000000100000", "limit: '00000000100000' is no number from 1 to 1000"),
        ("/v1/review?limit=0000000001", "limit: '0000000001' is no number from 1 to 500"),
        ("/v1/rounds?limt=5", "limt: unknown parameter; known: limit"),
        ("/v1/review?kind=gate", "kind: unknown parameter; known: purpose, limit"),
        ("/v1/explain/q1?descendant=1", "descendant: unknown parameter; known: descendants"),
    ],
)
async def test_a_parameter_that_means_nothing_is_not_passed_over(
    open_world: OpenWorld, address: str, said: str
) -> None:
    async with Roles(open_world()).api() as client:
        answer = await client.get(address)
        assert answer.status == 400
        assert (await answer.json())["error"]["message"] == said
        assert (await client.get("/metrics?name=x")).status == 200


async def test_a_thaw_takes_no_fields(open_world: OpenWorld) -> None:
    world = open_world()
    async with Roles(world).api() as client:
        assert (await client.post("/v1/freeze")).status == 200
        answer = await client.post("/v1/thaw", json={"reason": "mended"})
        assert answer.status == 400
        assert world.here.stores.freezes.get() is not None
        assert (await client.post("/v1/thaw")).status == 200
    assert world.here.stores.freezes.get() is None


async def test_all_that_descends_from_a_pseudo_label_is_shown_on_request(open_world: OpenWorld) -> None:
    world = open_world()
    world.ask([1])
    async with Roles(world).api() as client:
        for query, shown in (("", False), ("?descendants=0", False), ("?descendants=1", True)):
            seen = await (await client.get(f"/v1/explain/q1{query}")).json()
            assert (seen["taught"], "descendants" in seen) == ({"rounds": 0, "adapters": 0}, shown)
        assert (await client.get("/v1/explain/q1?descendants=deep")).status == 400


async def test_what_this_process_holds_is_in_the_status_beside_what_the_state_says(open_world: OpenWorld) -> None:
    world = open_world()
    roles = Roles(world)
    world.here.control.waits_for, world.here.control.waiting_for = "labels", "labels are still arriving"
    async with roles.api() as client:
        held = (await (await client.get("/v1/status")).json())["held"]
    assert held["rounds"] == "labels are still arriving"
    assert held["control"].startswith("no process leads")


async def test_metrics_are_those_of_the_moment(open_world: OpenWorld) -> None:
    roles = Roles(open_world())
    async with roles.api() as client:
        roles.intake.counters.received = 3
        assert 'semievol_intake_received_total{workload="w"} 3.0' in await (await client.get("/metrics")).text()


@pytest.mark.parametrize("body", ["[]", '"warm"', "3", "null", "{"])
async def test_a_body_that_is_no_object_is_refused(open_world: OpenWorld, body: str) -> None:
    world = open_world()
    async with Roles(world).api() as client:
        answer = await client.post("/v1/rounds", data=body, headers={"Content-Type": "application/json"})
        assert answer.status == 400
    assert world.stores.requests.pending() == []


RECORDS = {"records": [{"id": "q1", "question": "is 1 even?"}, {"id": "q2"}]}


async def test_of_several_records_all_are_published_or_none(open_world: OpenWorld) -> None:
    roles = Roles(open_world())
    async with roles.api() as client:
        answer = await client.post("/v1/queries", json=RECORDS)
        assert answer.status == 400
        assert await roles.intake.backlog() == 0
        answer = await client.post("/v1/queries?skip_invalid=true", json=RECORDS)
        assert (answer.status, (await answer.json())["published"]) == (202, 1)
        assert await roles.intake.backlog() == 1
        valid = {"records": RECORDS["records"][:1]}
        assert (await client.post("/v1/queries?skip_invalid=perhaps", json=valid)).status == 400
