"""How a process that does not lead follows what the leader decides."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from semievol.errors import ConfigError, SemiEvolError, TransientError
from semievold.errors import StoreError
from semievold.round_states import RoundState as S
from semievold.serving.following import FOLLOW_S, StateFollower
from semievold.store.aliases import AliasState
from tests.control_world import ControlWorld, OpenWorld, Process, failing


async def standby(world: ControlWorld, *rights: int) -> tuple[Process, list[str]]:
    """A process that does not lead, and versions that the leader `here` made."""
    await world.here.lead()
    names = [await world.version(right=right) for right in rights]
    return world.process(exclusive=False), names


async def test_a_version_is_loaded_before_requests_are_bound_to_it(open_world: OpenWorld) -> None:
    world = open_world()
    process, (name,) = await standby(world, 7)
    world.here.stores.alias.move(name)
    bound: list[str | None] = []

    async def see() -> None:
        bound.append(process.alias.adapter)

    process.generator.before_load = see
    await process.follower.look()
    assert bound[0] is None
    assert process.alias.adapter == name
    assert await process.generator.loaded_adapters() == {name}


async def test_a_version_that_cannot_be_loaded_here_is_not_followed_and_that_is_said_once(
    open_world: OpenWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = open_world()
    process, (first, second) = await standby(world, 7, 10)
    world.here.stores.alias.move(first)
    await process.follower.look()
    marker = world.place.adapters / second / "STABLE"
    content = marker.read_text()
    marker.unlink()
    world.here.stores.alias.move(second)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await process.follower.look()
    assert process.alias.adapter == first  # it goes on answering with what it has
    assert process.follower.defect is not None
    assert "no STABLE marker" in process.follower.defect
    assert len(caplog.records) == 1
    marker.write_text(content)
    await process.follower.look()
    assert process.follower.defect is None
    assert process.alias.adapter == second


async def test_a_move_to_the_base_model_needs_nothing_loaded(open_world: OpenWorld) -> None:
    world = open_world()
    process, (name,) = await standby(world, 7)
    world.here.stores.alias.move(name)
    await process.follower.look()
    world.here.stores.alias.move(None)
    await process.follower.look()
    assert process.alias.adapter is None
    assert await process.generator.loaded_adapters() == {name}  # the previous one


async def test_an_alias_that_moves_on_while_its_version_is_loaded_is_followed_at_the_next_look(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    process, (first, second) = await standby(world, 7, 10)
    world.here.stores.alias.move(first)

    async def moves_on() -> None:
        if world.stores.alias.get().adapter == first:
            await asyncio.to_thread(world.here.stores.alias.move, second)

    process.generator.before_load = moves_on
    await process.follower.look()
    assert process.alias.state.generation == 0
    await process.follower.look()
    assert process.alias.state == world.stores.alias.get()
    assert process.alias.adapter == second


async def test_what_the_alias_left_behind_is_unloaded_when_its_requests_have_ended(open_world: OpenWorld) -> None:
    world = open_world()
    process, names = await standby(world, 4, 7, 10)
    for name in names:
        world.here.stores.alias.move(name)
        await process.follower.look()
    assert await process.generator.loaded_adapters() == set(names[1:])


async def test_the_candidate_of_an_open_round_stays_loaded(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    process, (first, second) = await standby(world, 7, 10)
    candidate = (await world.advance(await world.plan(), S.TRAINED)).adapter
    assert candidate is not None
    for name in (candidate, first):  # the engine may be the leader's too
        await process.fleet.load(name)
    world.here.stores.alias.move(second)
    await process.follower.look()
    assert await process.generator.loaded_adapters() == {candidate, second}


async def test_the_leader_moves_its_alias_itself(open_world: OpenWorld) -> None:
    world = open_world()
    (name,) = (await standby(world, 7))[1]
    await world.here.stop()
    leader = world.process()
    leader.start()
    await world.until(lambda: leader.control.leads)
    world.stores.alias.move(name)
    await leader.follower.look()
    assert leader.alias.state.generation == 0  # its control loop will
    await world.until(lambda: leader.alias.adapter == name)


async def test_what_a_standby_could_not_load_is_no_defect_of_the_leader_that_it_becomes(open_world: OpenWorld) -> None:
    world = open_world()
    process, (name,) = await standby(world, 7)
    marker = world.place.adapters / name / "STABLE"
    content = marker.read_text()
    marker.unlink()
    world.here.stores.alias.move(name)
    await process.follower.look()
    assert process.follower.defect is not None
    marker.write_text(content)
    await world.here.stop()
    process.start()
    await world.until(lambda: process.control.leads)
    await process.follower.look()
    assert process.alias.adapter == name
    assert (process.follower.defect, process.fleet.defect) == (None, None)


async def test_a_version_whose_directory_breaks_later_is_noticed_and_mended(open_world: OpenWorld) -> None:
    world = open_world()
    (name,) = (await standby(world, 7))[1]
    world.here.stores.alias.move(name)
    marker = world.place.adapters / name / "STABLE"
    content = marker.read_text()
    marker.unlink()
    process = world.process()  # starts with the alias as it is stored, and cannot load it
    await process.follower.look()
    assert process.fleet.defect is not None
    marker.write_text(content)
    await process.follower.look()
    assert process.fleet.defect is None
    assert await process.generator.loaded_adapters() == {name}


async def test_the_warm_round_is_seen_to_end_and_so_is_a_promotion_without_one(open_world: OpenWorld) -> None:
    world = open_world()
    process, (name,) = await standby(world, 7)
    await process.follower.look()
    assert not process.follower.warm_ended.is_set()  # its only round was cancelled
    world.here.stores.alias.move(name)
    await process.follower.look()
    assert process.follower.warm_ended.is_set()


async def test_a_warm_round_that_promoted_nothing_has_ended_too(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    process, _ = await standby(world)
    world.trainer.right = 4
    await world.here.engine.advance(await world.advance(await world.plan(), S.LOADED))
    assert world.round(0).state is S.INCONCLUSIVE
    await process.follower.look()
    assert process.follower.warm_ended.is_set()


@pytest.mark.parametrize("kind", [TransientError, ConfigError, StoreError])
async def test_following_goes_on_when_the_state_or_the_engine_answers_again(
    kind: type[SemiEvolError], open_world: OpenWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = open_world()
    process, (name,) = await standby(world, 7)
    world.here.stores.alias.move(name)
    process.generator.before_load = failing(*[kind("the engine is away")] * 4)
    stop = asyncio.Event()
    with caplog.at_level(logging.WARNING):
        following = asyncio.create_task(process.follower.run(stop))
        begun = world.loop.time()
        await world.until(lambda: process.alias.adapter == name)
    assert world.loop.time() - begun == pytest.approx(4 * FOLLOW_S, abs=0.6)
    assert [record.message for record in caplog.records] == [
        "the alias cannot be followed for now, and stands for the base model still: the engine is away"
    ]
    stop.set()
    await following


class Fixed:
    """Stands for the store of an alias that says what it said."""

    def __init__(self, state: AliasState) -> None:
        self._state = state

    def get(self) -> AliasState:
        return self._state


async def test_a_state_that_is_behind_is_not_followed(open_world: OpenWorld) -> None:
    world = open_world()
    process, (first, second) = await standby(world, 7, 10)
    world.here.stores.alias.move(first)
    world.here.stores.alias.move(second)
    await process.follower.look()
    older = replace(process.alias.state, adapter=first, previous=None, generation=1)
    stores = replace(world.stores, alias=Fixed(older))  # of a replica of the database that lags
    follower = StateFollower(stores, process.alias, process.fleet, lambda: False)
    await follower.look()
    assert (process.alias.adapter, process.alias.state.generation) == (second, 2)
