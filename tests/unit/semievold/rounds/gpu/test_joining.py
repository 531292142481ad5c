"""One GPU for both: who comes back awake, or joins, while a round trains, and who is asked whether it sleeps."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import Any

import pytest

from semievold.rounds.gpu import sharing as module
from semievold.serving.lending import RestingError
from semievold.serving.replicas import ReplicaSet
from semievold.store.stores import Stores
from tests.scripted_replicas import SERVERS, ScriptedServers, until
from tests.sharing_world import V1, ServerNamed, World, begun, opened


def states(replicas: ReplicaSet) -> dict[str, str]:
    return {view.name: view.state for view in replicas.show()}


async def restart(world: World, name: str) -> None:
    """A server ends, and comes up again under its address."""
    world.servers.silent.add(name)
    for replicas in (world.leader, world.other):
        await until(lambda: states(replicas)[name] == "down")  # noqa: B023 - at once
    world.servers.start_anew(name)
    for replicas in (world.leader, world.other):
        await until(lambda: states(replicas)[name] == "asleep")  # noqa: B023 - at once


async def test_a_server_that_starts_anew_while_a_round_trains_is_put_to_sleep_and_lent_to_nobody(world: World) -> None:
    sharing = world.sharing(names=("a:1",))
    training, brake = await begun(world, sharing)
    await sharing.look()
    world.servers.calls.clear()
    await restart(world, "a:1")
    for replicas in (world.leader, world.other):
        for _ in range(8):
            async with replicas.lend(V1.name) as lent:
                assert lent.name == "b:1"
    assert world.servers.calls == []
    await sharing.look()
    assert world.servers.calls == [("sleep", "a:1")]
    await sharing.look()
    assert world.servers.calls == [("sleep", "a:1")]
    brake.released.set()
    await training
    await until(lambda: world.is_lent(world.leader) == world.is_lent(world.other) == set(SERVERS))


async def test_also_while_the_training_of_a_former_leader_goes_on(world: World) -> None:
    world.trainer.elsewhere = True
    training, _ = await begun(world)
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    following = world.sharing()
    await following.look()
    await restart(world, "b:1")
    await following.look()
    assert world.servers.asleep == set(SERVERS)


async def test_one_that_is_found_under_a_new_address_rests_before_anybody_lends_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = ["10.0.0.1"]

    def resolved(_host: str, port: int, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in there]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    old, new = "10.0.0.1:8000", "10.0.0.2:8000"
    servers = ScriptedServers()
    servers.held = {old: {"base"}}
    async with opened(stores, servers, dns="http://vllm:8000", replicas=[]) as world:
        world.open_round()
        sharing = world.sharing()
        training, brake = await begun(world, sharing)
        servers.held[new] = {"base", V1.name}  # as one has it that was never asleep
        there[:] = ["10.0.0.2"]
        for replicas in (world.leader, world.other):
            await until(lambda: list(states(replicas)) == [new])  # noqa: B023 - at once
            for _ in range(5):
                await replicas.looked()
                assert states(replicas) in ({new: "down"}, {new: "asleep"})
                with pytest.raises(RestingError, match="rests while round 0 trains"):
                    async with replicas.lend(V1.name):
                        pass
        await sharing.look()
        assert servers.asleep >= {new}
        row = stores.rests.get()
        assert row is not None
        assert new in row.replicas
        brake.released.set()
        await training
        assert stores.rests.get() is None
        await until(lambda: world.is_lent(world.leader) == world.is_lent(world.other) == {new})


async def test_one_that_comes_back_unable_to_sleep_is_named_once_and_lent_to_nobody(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    sharing = world.sharing()
    training, brake = await begun(world, sharing)
    world.servers.cannot_sleep = {"a:1"}
    await restart(world, "a:1")
    for _ in range(3):
        await sharing.look()
    assert caplog.text.count("replica a:1 does not sleep: a:1: /is_sleeping is not there") == 1
    assert states(world.other)["a:1"] == "asleep"
    assert not training.done()
    world.servers.cannot_sleep = set()
    brake.released.set()
    await training


async def test_who_comes_back_as_the_training_ends_stays_awake(world: World) -> None:
    sharing = world.sharing()
    training, brake = await begun(world, sharing)
    world.servers.busy["a:1"] = 1
    await restart(world, "a:1")
    world.servers.calls.clear()
    looking = asyncio.create_task(sharing.look())
    await until(lambda: world.servers.asked_of_sleep["a:1"] > 2)
    brake.released.set()
    await until(lambda: not sharing._trains)
    world.servers.busy.clear()
    await asyncio.gather(looking, training)
    assert ("sleep", "a:1") not in world.servers.calls
    assert world.servers.asleep == set()
    assert world.stores.rests.get() is None


async def test_a_server_is_asked_whether_it_sleeps_when_it_may_and_not_at_every_look(world: World) -> None:
    sharing = world.sharing()
    for _ in range(5):
        await sharing.look()
    assert world.servers.asked_of_sleep == {"a:1": 1, "b:1": 1}
    training, brake = await begun(world, sharing)
    asked = Counter(world.servers.asked_of_sleep)
    for _ in range(5):
        await sharing.look()
    assert world.servers.asked_of_sleep - asked == {"a:1": 1, "b:1": 1}
    brake.released.set()
    await training
    await sharing.look()
    asked = Counter(world.servers.asked_of_sleep)
    world.servers.silent.add("a:1")
    await until(lambda: states(world.leader)["a:1"] == "down")
    world.servers.silent.clear()
    await until(lambda: states(world.leader)["a:1"] == "up")
    for _ in range(5):
        await sharing.look()
    assert world.servers.asked_of_sleep - asked == {"a:1": 1}


async def test_one_that_was_put_to_sleep_by_hand_is_found_by_a_later_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharing = world.sharing()
    await sharing.look()
    awake = asyncio.Event()
    world.servers.before_answer["a:1"] = awake.wait  # what it is asked now
    await world.servers.sleep(ServerNamed("a:1"), 1.0)
    await sharing.look()
    assert world.servers.asleep == {"a:1"}
    monkeypatch.setattr(module, "ASK_S", 0.0)
    await sharing.look()
    assert world.servers.asleep == set()
    awake.set()
    await until(lambda: world.is_lent(world.other) == set(SERVERS))
