"""The kill switch: nothing is learned or promoted while it is on; what stood still goes on afterwards."""

from __future__ import annotations

import pytest

from semievol.errors import DataError
from semievold.api import operations
from semievold.errors import StateConflict
from semievold.round_states import RoundState as S
from tests.control_roles import Roles
from tests.control_world import Brake, OpenWorld, Weights, nothing

SAID = "frozen (bad labels); rounds go on after `semievol thaw`"


async def test_no_round_starts_by_itself_or_by_hand_until_it_is_thawed(open_world: OpenWorld) -> None:
    world = open_world()
    world.stores.freezes.freeze("bad labels")
    world.teach()
    world.here.start()
    await world.until(lambda: world.here.control.waits_for == "frozen")
    await world.passes(20)
    assert world.stores.rounds.all() == []
    answered = await world.answered(world.request("start_round", kind="warm"))
    assert (answered.state, answered.result) == ("refused", {"error": SAID})
    assert world.stores.freezes.thaw() is not None
    assert (await world.ended(0)).state is S.SETTLED


async def test_a_training_is_stopped_and_goes_on_after_the_thaw(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    brake = world.trainer.before = Brake()
    world.here.start()
    await brake.reached.wait()
    world.stores.freezes.freeze("bad labels")
    await world.until(lambda: world.trainer.stopped == 1)
    await world.passes(5)
    assert world.here.control.waiting_for == SAID
    assert world.round(0).state is S.TRAINING
    assert world.trainer.begun == 1
    world.trainer.before = nothing
    world.stores.freezes.thaw()
    assert (await world.ended(0)).state is S.SETTLED
    assert world.round(0).attempts == 0


async def test_what_was_about_to_be_promoted_is_not(open_world: OpenWorld) -> None:
    """Also by a process that has not seen the freeze yet."""
    world = open_world()
    world.teach()
    await world.here.lead()
    attested = await world.advance(await world.plan(), S.ATTESTED)
    world.stores.freezes.freeze("bad labels")
    with pytest.raises(StateConflict, match="frozen"):
        await world.here.engine.advance(attested)
    assert world.stores.alias.get().generation == 0
    world.stores.freezes.thaw()
    assert (await world.here.engine.advance(attested)).state is S.PROMOTED


async def test_a_watch_goes_on_and_can_take_back_what_was_promoted(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 30.0})
    world.teach()
    world.trainer.right = 7
    world.here.start()
    await world.ended(0)
    world.trainer.right = 10
    world.ask(range(40, 60), agreement=1.0)
    round_ = await world.reaches(1, S.PROMOTED)
    world.stores.freezes.freeze("bad labels")
    await world.passes(5)
    world.weights[round_.adapter] = Weights(0, 0.2)
    world.teach(training=(), held_out=range(5000, 5030))
    assert (await world.ended(1)).state is S.ROLLED_BACK
    await world.until(lambda: world.here.control.waits_for == "frozen")


async def test_a_person_promotes_nothing_until_it_is_thawed(open_world: OpenWorld) -> None:
    world = open_world(trigger={"new_pseudo_labels": None})
    await world.here.take_lease()
    name = await world.version()
    world.here.start()
    world.stores.freezes.freeze("bad labels")
    answered = await world.answered(world.request("promote", adapter=name))
    assert (answered.state, answered.result) == ("refused", {"error": SAID})
    assert name not in await world.here.generator.loaded_adapters()
    world.stores.freezes.thaw()
    answered = await world.answered(world.request("promote", adapter=name))
    assert (answered.state, answered.result) == ("done", {"from": None, "to": name})


async def test_a_freeze_that_comes_between_check_and_promotion_by_hand_holds(open_world: OpenWorld) -> None:
    world = open_world()
    await world.here.lead()
    name = await world.version()
    world.stores.freezes.freeze("bad labels")
    with pytest.raises(StateConflict, match="frozen"):
        world.here.stores.alias.move(name)
    assert world.stores.alias.get().generation == 0
    assert world.here.stores.alias.move(name, away=True).adapter == name


async def test_a_person_still_rolls_back(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 0.0})
    world.teach()
    world.here.start()
    settled = await world.ended(0)
    world.stores.freezes.freeze("bad labels")
    answered = await world.answered(world.request("rollback"))
    assert (answered.state, answered.result) == ("done", {"from": settled.adapter, "to": None})


async def test_it_is_seen_in_status_metrics_and_readiness_and_said_again_only_as_another_reason(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    roles = Roles(world)
    await roles.state_watch.look()
    assert operations.status(world.config, world.stores, world.place)["frozen"] is None
    first = world.stores.freezes.freeze("bad labels")
    world.here.start()
    await world.until(lambda: world.here.control.waits_for == "frozen")
    assert 'semievol_frozen{workload="w"} 0.0' in roles.metrics.render().decode()
    await roles.state_watch.look()
    assert 'semievol_frozen{workload="w"} 1.0' in roles.metrics.render().decode()
    assert roles.observer.held()["rounds"] == SAID
    seen = operations.status(world.config, world.stores, world.place)
    assert seen["frozen"] == {"reason": "bad labels", "at": first.at}
    assert seen["waiting_for"] == seen["held"]["rounds"] == SAID
    assert world.stores.freezes.freeze("worse labels") == ("worse labels", first.at)
    assert world.stores.freezes.thaw() == ("worse labels", first.at)
    assert world.stores.freezes.thaw() is None


async def test_the_api_freezes_and_thaws_at_once(open_world: OpenWorld) -> None:
    world = open_world()
    async with Roles(world).api() as client:
        answer = await client.post("/v1/freeze", json={"reason": "bad labels"})
        assert (await answer.json())["frozen"]["reason"] == "bad labels"
        assert (await (await client.get("/v1/status")).json())["frozen"]["reason"] == "bad labels"
        assert (await client.post("/v1/freeze", json={"reason": 7})).status == 400
        assert (await client.post("/v1/freeze", json={"why": "x"})).status == 400
        assert (await client.post("/v1/thaw", headers={"Authorization": "Bearer no"})).status == 401
        answer = await client.post("/v1/thaw")
        assert (await answer.json())["was"]["reason"] == "bad labels"
    assert world.stores.freezes.get() is None


@pytest.mark.parametrize("reason", ["", "x" * 201, None, "half \ud800"])
def test_a_reason_that_cannot_be_kept_is_refused(reason: object) -> None:
    with pytest.raises(DataError, match="freeze: field 'reason'"):
        operations.freeze_reason({"reason": reason})
