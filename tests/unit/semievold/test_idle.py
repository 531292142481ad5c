"""When a run that is to end by itself has nothing left to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from semievol.errors import TransientError
from semievold.idle import LOOK_S, QUIET_LOOKS, IdleWatch
from semievold.store.requests import OperatorRequest, RequestStore
from tests.control_roles import Roles
from tests.control_world import Brake, ControlWorld, OpenWorld, failing

WATCH_S = LOOK_S * QUIET_LOOKS


@asynccontextmanager
async def watching(roles: Roles) -> AsyncIterator[list[str]]:
    """The reasons for which the watch asked to stop, as they come."""
    stop, reasons = asyncio.Event(), list[str]()
    task = asyncio.create_task(roles.idle_watch.run(stop, reasons.append))
    try:
        yield reasons
    finally:
        stop.set()
        await task


async def leading(world: ControlWorld) -> Roles:
    """A leader whose control has looked around, and the roles beside it."""
    world.here.start()
    await world.until(lambda: world.here.control.waiting_for != "starting")
    return Roles(world)


async def ends_after(world: ControlWorld, reasons: list[str]) -> float:
    """How long it takes until the watch asks to stop, which it does once."""
    begun = world.loop.time()
    await world.until(lambda: reasons)
    asked = world.loop.time() - begun
    await world.passes(1.5 * WATCH_S)
    assert len(reasons) == 1
    return asked


async def stays_up(world: ControlWorld, reasons: list[str]) -> bool:
    await world.passes(1.5 * WATCH_S)
    return reasons == []


async def test_four_quiet_looks_in_a_row_end_the_run_and_say_what_was_waited_for(open_world: OpenWorld) -> None:
    world = open_world()
    roles = await leading(world)
    async with watching(roles) as reasons:
        assert await ends_after(world, reasons) == pytest.approx(WATCH_S, abs=0.6)
    assert reasons == ["idle (0 of 4 examples for the warm round)"]


async def test_a_process_that_stands_by_is_not_idle(open_world: OpenWorld) -> None:
    world = open_world()
    async with watching(Roles(world)) as reasons:
        assert await stays_up(world, reasons)


async def test_an_open_round_is_not_idle(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    brake = world.trainer.before = Brake()
    roles = await leading(world)
    await brake.reached.wait()
    async with watching(roles) as reasons:
        assert await stays_up(world, reasons)
        brake.released.set()
        await world.ended(0)
        await ends_after(world, reasons)


async def test_a_request_that_waits_to_be_carried_out_is_not_idle(open_world: OpenWorld) -> None:
    world = open_world()
    await world.here.lead()
    for right in (7, 10):
        world.here.stores.alias.move(await world.version(right=right))
    roles = await leading(world)
    world.here.generator.before_load = failing(*[TransientError("the engine is away")] * 1000)
    world.request("rollback")
    async with watching(roles) as reasons:
        assert await stays_up(world, reasons)
        world.here.generator.before_load = failing()
        await ends_after(world, reasons)


async def test_labels_that_nobody_has_read_are_not_idle(open_world: OpenWorld) -> None:
    world = open_world()
    roles = await leading(world)
    await roles.publish(world.config.stream.labels, "e1")
    async with watching(roles) as reasons:
        assert await stays_up(world, reasons)
        await roles.read(world.config.stream.labels)
        assert await ends_after(world, reasons) == pytest.approx(WATCH_S, abs=LOOK_S)


async def test_labels_that_are_still_arriving_are_not_idle(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.labels_lag = 1
    roles = await leading(world)
    async with watching(roles) as reasons:
        assert await stays_up(world, reasons)
    assert world.here.control.idle


async def warm_ended(world: ControlWorld) -> Roles:
    roles = await leading(world)
    world.here.follower.warm_ended.set()
    return roles


async def test_queries_that_nobody_has_read_are_not_idle(open_world: OpenWorld) -> None:
    world = open_world()
    roles = await warm_ended(world)
    await roles.publish(world.config.stream.queries, "q1")
    async with watching(roles) as reasons:
        assert await stays_up(world, reasons)
        await roles.read(world.config.stream.queries)
        await ends_after(world, reasons)


async def test_queries_that_are_being_answered_are_not_idle(open_world: OpenWorld) -> None:
    world = open_world()
    roles = await warm_ended(world)
    roles.intake.counters.in_flight = 1
    async with watching(roles) as reasons:
        assert await stays_up(world, reasons)
        roles.intake.counters.in_flight = 0
        await ends_after(world, reasons)


async def test_queries_that_are_held_for_a_warm_round_that_cannot_come_are_idle(open_world: OpenWorld) -> None:
    world = open_world()
    roles = await leading(world)
    await roles.publish(world.config.stream.queries, "q1")
    async with watching(roles) as reasons:
        await ends_after(world, reasons)


@pytest.mark.parametrize("quiet", range(1, QUIET_LOOKS))
async def test_anything_to_do_begins_the_count_anew(open_world: OpenWorld, quiet: int) -> None:
    world = open_world()
    roles = await warm_ended(world)
    async with watching(roles) as reasons:
        await world.passes(quiet * LOOK_S)
        roles.intake.counters.in_flight = 1
        await world.passes(LOOK_S)
        roles.intake.counters.in_flight = 0
        assert await ends_after(world, reasons) == pytest.approx(WATCH_S, abs=LOOK_S)


class SilentRequests(RequestStore):
    silent = True

    def pending(self) -> list[OperatorRequest]:
        if self.silent:
            raise TransientError("the state is away")
        return super().pending()


async def test_a_state_that_does_not_answer_is_not_idle_and_the_watch_goes_on(open_world: OpenWorld) -> None:
    world = open_world()
    roles = await leading(world)
    requests = SilentRequests(world.database, "w")
    stores = replace(world.stores, requests=requests)
    roles.idle_watch = IdleWatch(stores, roles.intake, roles.labels, world.here.control, world.here.follower.warm_ended)
    async with watching(roles) as reasons:
        assert await stays_up(world, reasons)
        requests.silent = False
        assert await ends_after(world, reasons) == pytest.approx(WATCH_S, abs=LOOK_S)


async def test_silence_of_the_state_begins_the_count_anew(open_world: OpenWorld) -> None:
    world = open_world()
    roles = await leading(world)
    requests = SilentRequests(world.database, "w")
    requests.silent = False
    stores = replace(world.stores, requests=requests)
    roles.idle_watch = IdleWatch(stores, roles.intake, roles.labels, world.here.control, world.here.follower.warm_ended)
    async with watching(roles) as reasons:
        await world.passes((QUIET_LOOKS - 1) * LOOK_S)
        requests.silent = True
        await world.passes(LOOK_S)
        requests.silent = False
        assert await ends_after(world, reasons) == pytest.approx(WATCH_S, abs=LOOK_S)


async def test_a_stop_from_elsewhere_ends_the_watch(open_world: OpenWorld) -> None:
    world = open_world()
    roles = await leading(world)
    stop, asked = asyncio.Event(), list[str]()
    stop.set()
    await roles.idle_watch.run(stop, asked.append)
    assert asked == []
