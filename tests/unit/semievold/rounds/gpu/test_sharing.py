"""One GPU for both: who sleeps while a round trains, who is lent meanwhile, and that all wake whatever became of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from semievol.errors import AdapterError, ConfigError, TransientError
from semievold.errors import LeaseLost
from semievold.round_states import RoundState
from semievold.rounds.gpu.sharing import SharingLauncher
from semievold.serving.lending import RestingError
from semievold.serving.resting import RestFollower
from semievold.store.rollout.rests import Rest
from semievold.store.stores import Stores, stores_over
from tests.control_world import Brake
from tests.scripted_replicas import SERVERS, ScriptedServers, adapter, replica_set, until
from tests.sharing_world import V1, ServerNamed, Trainer, World, begun, opened

SAID = "a:1, b:1 rest while round 0 trains on their GPU (training.share_gpu)"


async def test_the_servers_sleep_while_a_round_trains_and_prove_the_adapter_before_they_are_lent_again(
    world: World,
) -> None:
    world.servers.calls.clear()
    training, brake = await begun(world)
    assert world.servers.asleep == set(SERVERS)
    for name in SERVERS:
        calls = [call for call, server in world.servers.calls if server == name]
        assert calls == [f"unload {V1.name}", "sleep"]  # who has not heard of it is told that it is not there
    for replicas in (world.leader, world.other):
        assert [view.state for view in replicas.show()] == ["asleep", "asleep"]
        assert replicas.resting == SAID
        assert replicas.defect is None
        with pytest.raises(RestingError, match="rest while round 0 trains") as refused:
            async with replicas.lend(V1.name):
                pass
        assert refused.value.again_s == 30
        async with asyncio.timeout(0.5):
            with pytest.raises(TransientError, match="rest while round 0 trains"):  # said at once: nobody waits so long
                await replicas.load(V1)
    world.servers.calls.clear()
    brake.released.set()
    assert (await training).name == "w-r0000-0a1b2c3d"
    assert world.stores.rests.get() is None
    assert world.is_lent(world.leader) == set()  # awake, and nothing proved yet
    await until(lambda: world.is_lent(world.leader) == world.is_lent(world.other) == set(SERVERS))
    for name in SERVERS:
        assert [call for call, server in world.servers.calls if server == name] == ["wake up", f"load {V1.name}"]


async def test_what_was_loaded_while_it_slept_is_unloaded_before_it_is_trusted(world: World) -> None:
    """vLLM lists an adapter that it has lost in its sleep, and the base model answers under its name."""
    training, brake = await begun(world)
    for name in SERVERS:
        world.servers.held[name].add(V1.name)
        world.servers.lost.add((name, V1.name))
    world.servers.calls.clear()
    brake.released.set()
    await training
    await until(lambda: world.is_lent(world.leader) == world.is_lent(world.other) == set(SERVERS))
    for name in SERVERS:
        calls = [call for call, server in world.servers.calls if server == name]
        assert calls == ["wake up", f"unload {V1.name}", f"load {V1.name}"]


@pytest.mark.parametrize("end", ["fails", "is cancelled", "has no place"])
async def test_all_wake_whatever_becomes_of_the_training(world: World, end: str) -> None:
    if end == "is cancelled":
        training, _ = await begun(world)
        training.cancel()
        expected: type[BaseException] = asyncio.CancelledError
    else:
        expected = AdapterError if end == "fails" else TransientError

        async def failing() -> None:
            raise expected("said so")

        world.trainer.during = failing
        training = asyncio.create_task(world.train())
    with pytest.raises(expected):
        await training
    assert world.servers.asleep == set()
    assert world.stores.rests.get() is None
    await until(lambda: world.is_lent(world.other) == set(SERVERS))


async def test_those_that_do_not_share_the_gpu_go_on(world: World) -> None:
    sharing = world.sharing(names=("a:1",))
    training, brake = await begun(world, sharing)
    assert world.servers.asleep == {"a:1"}
    for replicas in (world.leader, world.other):
        assert replicas.resting is None
        for _ in range(8):
            async with replicas.lend(V1.name) as lent:
                assert lent.name == "b:1"
        await replicas.load(V1)  # what is asked of the fleet meanwhile waits for nobody who sleeps
    assert (await world.leader.prove(adapter(2))).passed
    brake.released.set()
    await training
    await until(lambda: world.is_lent(world.other) == set(SERVERS))


async def test_what_was_asked_ends_before_its_server_sleeps_and_new_requests_go_elsewhere(world: World) -> None:
    world.servers.busy["a:1"] = 1  # of another process
    async with world.leader.lend(V1.name, avoid={"b:1"}) as lent:
        training = asyncio.create_task(world.train(world.sharing(names=(lent.name,))))
        await until(lambda: world.other.show()[0].state == "asleep")
        async with world.leader.lend(V1.name) as one, world.other.lend(V1.name) as other:
            assert one.name == other.name == "b:1"
        await until(lambda: (f"unload {V1.name}", "a:1") in world.servers.calls)
        del world.servers.busy["a:1"]
        await asyncio.sleep(0.3)
        assert world.servers.asleep == set()  # a request of ours runs still
    await training
    assert ("sleep", "a:1") in world.servers.calls


async def test_a_server_that_does_not_come_to_an_end_is_not_put_to_sleep(world: World) -> None:
    world.servers.busy["b:1"] = 3
    with pytest.raises(TransientError, match="b:1: works on 3 requests still, after 0 s"):
        await world.train(world.sharing(patience_s=0.2))
    assert world.stores.rests.get() is None
    assert world.servers.asleep == set()
    assert ("sleep", "b:1") not in world.servers.calls


async def test_a_server_that_does_not_answer_is_not_waited_for_and_rests_until_the_training_is_over(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.servers.silent = {"a:1"}
    training, brake = await begun(world)
    assert world.servers.asleep == {"b:1"}
    assert "replica a:1 does not answer, and the training does not wait for its sleep: a:1: nobody" in caplog.text
    world.servers.calls.clear()
    world.servers.silent = set()
    for replicas in (world.leader, world.other):
        await until(lambda: {view.state for view in replicas.show()} == {"asleep"})  # noqa: B023 - at once
    assert world.servers.calls == []  # it gets no request, nor a question of ours
    world.servers.silent = {"a:1"}
    brake.released.set()
    await training
    left = world.stores.rests.get()
    assert left is not None
    assert left.replicas == ("a:1",)
    world.servers.silent = set()
    await world.sharing().look()
    assert world.stores.rests.get() is None
    await until(lambda: world.is_lent(world.leader) == world.is_lent(world.other) == set(SERVERS))


async def test_a_leader_that_was_deposed_while_it_waited_puts_nobody_to_sleep(world: World) -> None:
    leads = True

    def check(_: object) -> None:
        if not leads:
            raise LeaseLost("another process leads")

    world.servers.busy = dict.fromkeys(SERVERS, 1)
    stores = stores_over(world.stores.database.checked(check), "w", "w")
    training = asyncio.create_task(world.train(world.sharing(stores)))
    await until(lambda: (f"unload {V1.name}", "b:1") in world.servers.calls)
    leads = False
    world.servers.busy.clear()
    with pytest.raises(LeaseLost):
        await training
    assert world.servers.asleep == set()


async def test_a_server_that_rests_for_another_workload_is_neither_woken_nor_put_to_sleep(world: World) -> None:
    other = stores_over(world.stores.database, "other", "other")
    other.rests.write(Rest(3, ("a:1",), other.rests.now))
    await world.servers.sleep(ServerNamed("a:1"), 1.0)
    with pytest.raises(ConfigError, match="a:1 makes way for a training of another workload"):
        await world.train()
    await world.sharing().look()
    assert world.servers.asleep == {"a:1"}
    assert world.stores.rests.get() is None
    other.rests.clear()
    await world.sharing().look()
    assert world.servers.asleep == set()


@pytest.mark.parametrize(
    ("replicas", "waking", "said"),
    [
        (("a:1",), False, "a:1 rests while round 3 trains on its GPU (training.share_gpu)"),
        (("a:1",), True, "a:1 is woken: nothing trains on its GPU (training.share_gpu)"),
        (("a:1", "b:1"), True, "a:1, b:1 are woken: nothing trains on their GPU (training.share_gpu)"),
    ],
)
def test_people_are_told_who_rests(replicas: tuple[str, ...], waking: bool, said: str) -> None:
    assert Rest(3, replicas, 0.0, waking=waking).said() == said


async def test_a_server_that_cannot_sleep_is_named_and_nobody_rests_for_it(world: World) -> None:
    world.servers.cannot_sleep = {"b:1"}
    with pytest.raises(ConfigError, match="b:1: /is_sleeping is not there"):
        await world.train()
    assert world.stores.rests.get() is None
    assert ("sleep", "a:1") not in world.servers.calls


async def test_a_server_that_holds_another_workloads_adapter_is_not_put_to_sleep(world: World) -> None:
    world.servers.held["b:1"].add("other-r0001-0a1b2c3d")
    with pytest.raises(ConfigError, match=r"b:1 holds other-r0001-0a1b2c3d of another workload"):
        await world.train()
    assert world.servers.asleep == set()


async def test_a_training_that_has_ended_already_lets_nobody_sleep(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semievold.rounds.gpu.sharing.made_before", lambda place: (place.work, None))
    await world.train()
    assert ("sleep", "a:1") not in world.servers.calls


async def test_the_next_leader_wakes_what_a_killed_one_left_asleep(stores: Stores) -> None:
    """Its row is found at the start, before anything is asked of who sleeps."""
    servers = ScriptedServers()
    for name in SERVERS:
        servers.held[name].add(V1.name)
        await servers.sleep(ServerNamed(name), 1.0)
    stores.rests.write(Rest(0, SERVERS, stores.rests.now))
    async with opened(stores, servers) as world:
        assert [view.state for view in world.leader.show()] == ["asleep", "asleep"]
        await world.sharing().look()
        assert stores.rests.get() is None
        await until(lambda: world.is_lent(world.leader) == world.is_lent(world.other) == set(SERVERS))


async def test_who_trains_elsewhere_keeps_its_gpu_when_the_leader_stops(world: World) -> None:
    """A Job outlives the process that asked for it: the next leader waits for it, and nobody wakes meanwhile."""
    world.trainer.elsewhere = True
    training, _ = await begun(world)
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    assert world.servers.asleep == set(SERVERS)
    following = world.sharing()
    await following.look()
    assert world.servers.asleep == set(SERVERS)
    world.servers.calls.clear()
    training, brake = await begun(world, following)
    assert world.servers.calls == []  # they sleep already
    brake.released.set()
    await training
    assert world.servers.asleep == set()


@pytest.mark.parametrize("why", ["frozen", "cancelled"])
async def test_what_trains_elsewhere_for_nobody_is_ended_before_they_wake(world: World, why: str) -> None:
    world.trainer.elsewhere = True
    training, _ = await begun(world)
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    if why == "frozen":
        world.stores.freezes.freeze("a look at it")
    else:
        world.stores.rounds.leave(0, RoundState.TRAINING, RoundState.CANCELLED, "test")
    await world.sharing().look()
    assert world.trainer.retired == [None]
    assert world.servers.asleep == set()
    assert world.stores.rests.get() is None


async def test_who_does_not_wake_at_first_is_woken_by_a_later_look_and_the_others_answer_before(world: World) -> None:
    training, brake = await begun(world)
    world.servers.cannot_wake = {"b:1"}
    brake.released.set()
    await training
    left = world.stores.rests.get()
    assert left is not None
    assert (left.replicas, left.waking) == (("b:1",), True)
    await until(lambda: world.is_lent(world.other) == {"a:1"})
    sharing = world.sharing()
    await sharing.look()
    assert world.stores.rests.get() == left
    world.servers.cannot_wake = set()
    await sharing.look()
    assert world.stores.rests.get() is None
    await until(lambda: world.is_lent(world.other) == set(SERVERS))


async def test_who_is_gone_from_the_replicas_or_cannot_sleep_any_more_is_not_waited_for(world: World) -> None:
    world.stores.rests.write(Rest(0, ("a:1", "gone:1"), world.stores.rests.now))
    world.servers.cannot_sleep = {"a:1"}  # it was started anew, without the flag
    await world.sharing().look()
    assert world.stores.rests.get() is None


async def test_who_sleeps_without_a_row_is_woken_too_where_the_gpu_is_shared(world: World) -> None:
    """It was away from the addresses of a name, say, when the others were woken: it would keep its requests."""
    await world.servers.sleep(ServerNamed("a:1"), 1.0)
    awake = asyncio.Event()
    world.servers.before_answer["a:1"] = awake.wait  # what it is asked now
    await world.sharing(names=None).look()
    assert world.servers.asleep == {"a:1"}  # not ours to wake
    await world.sharing().look()
    assert world.servers.asleep == set()
    assert world.stores.rests.get() is None
    awake.set()
    await until(lambda: world.is_lent(world.other) == set(SERVERS))


async def test_who_said_nothing_is_asked_again_at_the_next_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.servers.sleep(ServerNamed("a:1"), 1.0)
    sharing, is_sleeping = world.sharing(), world.servers.is_sleeping

    async def broken(server: object) -> bool:
        raise TransientError("the connection broke")

    monkeypatch.setattr(world.servers, "is_sleeping", broken)
    await sharing.look()
    assert world.servers.asleep == {"a:1"}
    monkeypatch.setattr(world.servers, "is_sleeping", is_sleeping)
    await sharing.look()
    assert world.servers.asleep == set()


async def test_who_sleeps_is_asked_again_where_its_row_could_not_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.servers.sleep(ServerNamed("a:1"), 1.0)
    sharing, write = world.sharing(), world.stores.rests.write

    def busy(rest: Rest) -> None:
        raise TransientError("the state is busy")

    monkeypatch.setattr(world.stores.rests, "write", busy)
    with pytest.raises(TransientError, match="busy"):
        await sharing.look()
    monkeypatch.setattr(world.stores.rests, "write", write)
    await sharing.look()
    assert world.servers.asleep == set()


async def test_a_former_setting_is_undone(world: World) -> None:
    await world.servers.sleep(ServerNamed("a:1"), 1.0)
    world.stores.rests.write(Rest(0, ("a:1",), world.stores.rests.now))
    await world.sharing(names=None).look()
    assert world.servers.asleep == set()
    assert world.stores.rests.get() is None


async def test_a_row_outlives_a_name_that_cannot_be_resolved(stores: Stores) -> None:
    stores.rests.write(Rest(0, SERVERS, stores.rests.now))
    async with replica_set(ScriptedServers(), dns="http://name.invalid:1") as nobody:
        rests = RestFollower(stores.rests, nobody)
        await SharingLauncher(Trainer(), stores, nobody, rests, (), 5.0).look()
    assert stores.rests.get() is not None


async def test_a_deposed_leader_wakes_nobody(world: World) -> None:
    leads = True

    def check(_: object) -> None:
        if not leads:
            raise LeaseLost("another process leads")

    stores = stores_over(world.stores.database.checked(check), "w", "w")
    training, _ = await begun(world, world.sharing(stores))
    leads = False
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    assert world.servers.asleep == set(SERVERS)
    assert world.stores.rests.get() is not None


async def test_a_proof_that_began_before_a_rest_says_nothing_after_it(world: World) -> None:
    asked = world.servers.before_answer["a:1"] = Brake()
    proving = asyncio.create_task(world.leader.prove(V1))
    await asked.reached.wait()
    world.leader.rest({"a:1"}, "a test")
    world.servers.lost.add(("a:1", V1.name))
    world.leader.rest(())
    asked.released.set()
    await until(lambda: world.is_lent(world.leader) == set(SERVERS))
    assert ("a:1", V1.name) not in world.servers.lost  # it was loaded anew, and proved anew
    assert (await proving).passed


@pytest.mark.parametrize(
    ("expected_s", "age_s", "again_s"), [(None, 500, 30), (40, 10, 30), (4000, 10, 60), (40, 38, 5), (40, 400, 5)]
)
def test_a_client_is_told_to_ask_again_about_when_the_training_ends(
    expected_s: float | None, age_s: float, again_s: int
) -> None:
    rest = Rest(1, ("a:1",), 1000.0, expected_s)
    assert rest.ask_again_s(1000.0 + age_s) == again_s
    assert replace(rest, waking=True).ask_again_s(1000.0) == 5


async def test_the_row_says_how_long_the_last_training_took(world: World) -> None:
    made = {"name": "w-r0000-0a1b2c3d", "path": "/none", "content_hash": "hash", "parent": None}
    world.stores.rounds.trained(0, {"wall_s": 47.0}, made)
    world.stores.rounds.leave(0, RoundState.TRAINED, RoundState.CANCELLED, "test")
    training, brake = await begun(world)
    rest = world.stores.rests.get()
    assert rest is not None
    assert rest.expected_s == 47.0
    brake.released.set()
    await training
