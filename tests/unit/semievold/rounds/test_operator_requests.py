"""What operators ask of the controller: it is carried out, or refused with the reason, and the loop goes on."""

from __future__ import annotations

import pytest

from semievol.errors import TransientError
from semievold.round_states import CANCELLABLE
from semievold.round_states import RoundState as S
from tests.control_world import Brake, ControlWorld, OpenWorld, failing, nothing


async def controlled(world: ControlWorld, *rights: int) -> list[str]:
    """Start control with versions that know so many of ten answers, each promoted after the one before; their names."""
    world.teach(held_out=())  # with nothing to be judged by, no round starts by itself
    await world.here.lead()
    names = [await world.version(right=right) for right in rights]
    for name in names:
        world.here.stores.alias.move(name)
    world.here.start()
    await world.until(lambda: world.here.control.leads)
    return names


async def result(world: ControlWorld, request: int) -> tuple[str, object]:
    answered = await world.answered(request)
    return answered.state, answered.result


# --- rollback -------------------------------------------------------------------------------------------------------


async def test_a_rollback_returns_to_the_previous_version_at_once(open_world: OpenWorld) -> None:
    world = open_world()
    first, second = await controlled(world, 7, 10)
    assert await result(world, world.request("rollback")) == ("done", {"from": second, "to": first})
    assert world.here.alias.adapter == world.stores.alias.get().adapter == first
    # Back and forth: the previous version is now the one that was left.
    assert await result(world, world.request("rollback")) == ("done", {"from": first, "to": second})


async def test_a_rollback_of_the_first_promotion_returns_to_the_base_model(open_world: OpenWorld) -> None:
    world = open_world()
    (only,) = await controlled(world, 7)
    assert await result(world, world.request("rollback")) == ("done", {"from": only, "to": None})
    assert world.here.alias.adapter is None


async def test_a_rollback_is_refused_while_nothing_was_promoted_and_the_loop_goes_on(open_world: OpenWorld) -> None:
    world = open_world()
    await controlled(world)
    refusal = {"error": "nothing was promoted yet; there is nothing to roll back to"}
    assert await result(world, world.request("rollback")) == ("refused", refusal)
    assert world.stores.alias.get().generation == 0
    assert (await result(world, world.request("start_round", kind="warm")))[0] == "done"


async def test_a_rollback_to_a_version_whose_directory_is_gone_is_refused(open_world: OpenWorld) -> None:
    world = open_world()
    first, second = await controlled(world, 7, 10)
    (world.place.adapters / first / "STABLE").unlink()
    state, answer = await result(world, world.request("rollback"))
    assert state == "refused"
    assert "no STABLE marker" in str(answer)
    assert world.here.alias.adapter == second


async def test_a_request_waits_for_a_component_that_is_away(open_world: OpenWorld) -> None:
    world = open_world()
    first, _ = await controlled(world, 7, 10)
    world.here.generator.before_load = failing(*[TransientError("the engine is away")] * 3)
    request = world.request("rollback")
    await world.until(lambda: world.here.control.last_error == f"request {request} (rollback): the engine is away")
    assert world.stores.requests.get(request) in world.stores.requests.pending()
    assert (await result(world, request))[0] == "done"
    assert world.here.alias.adapter == first
    await world.until(lambda: world.here.control.last_error is None)


# --- promote --------------------------------------------------------------------------------------------------------


async def test_an_attested_version_is_promoted_by_hand(open_world: OpenWorld) -> None:
    world = open_world()
    retired, _, serving = await controlled(world, 4, 7, 10)
    assert retired not in await world.here.generator.loaded_adapters()
    answer = {"from": serving, "to": retired}
    assert await result(world, world.request("promote", adapter=retired)) == ("done", answer)
    assert world.here.alias.adapter == world.stores.alias.get().adapter == retired
    assert await world.here.generator.loaded_adapters() >= {retired, serving}


async def test_a_version_that_does_not_answer_as_trained_is_not_promoted_by_hand(open_world: OpenWorld) -> None:
    world = open_world()
    first, second = await controlled(world, 7, 10)
    await result(world, world.request("rollback"))
    world.weights[second] = world.weights[first]
    refusal = (
        f"adapter {second} is not promoted: answers are the incumbent's: the old weights are served under the new name"
    )
    assert await result(world, world.request("promote", adapter=second)) == ("refused", {"error": refusal})
    assert world.here.alias.adapter == first


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        ("the serving one", "adapter {serving} serves already"),
        ("w-r0099-00000000", "there is no adapter 'w-r0099-00000000'; `semievol adapters list` shows them"),
        ("the deleted one", "the directory of adapter '{deleted}' was deleted (artifacts.keep_adapters)"),
    ],
)
async def test_a_promotion_that_cannot_be_is_refused_with_the_reason(
    open_world: OpenWorld, adapter: str, reason: str
) -> None:
    world = open_world()
    deleted, serving = await controlled(world, 4, 7)
    world.here.stores.adapters.mark(deleted, "deleted")
    name = {"the serving one": serving, "the deleted one": deleted}.get(adapter, adapter)
    expected = {"error": reason.format(serving=serving, deleted=deleted)}
    assert await result(world, world.request("promote", adapter=name)) == ("refused", expected)
    assert world.stores.alias.get().generation == 2


# --- start ----------------------------------------------------------------------------------------------------------


async def test_a_round_is_started_by_hand_with_its_options(open_world: OpenWorld) -> None:
    world = open_world()
    await controlled(world)
    asked = world.request("start_round", kind="warm", shuffle_labels=True, reason="a drill")
    state, answer = await result(world, asked)
    assert state == "done"
    assert answer == {"round": 0}
    planned = world.round(0)
    assert (planned.kind, planned.trigger, planned.options) == (
        "warm",
        "a drill",
        {"shuffle_labels": True, "config": world.config.hash()},
    )
    ended = await world.ended(0)
    assert ended.snapshot is not None
    assert ended.snapshot["shuffle_labels"]
    assert ended.reason == "0 held-out examples, fewer than gate.min_holdout (20): label more"


async def test_a_second_round_is_refused_while_one_is_open(open_world: OpenWorld) -> None:
    world = open_world()
    await controlled(world)
    brake = world.trainer.before = Brake()
    assert (await result(world, world.request("start_round", kind="warm")))[0] == "done"
    refusal = {"error": "round 0 is still open; cancel it or wait until it ends"}
    assert await result(world, world.request("start_round", kind="warm")) == ("refused", refusal)
    brake.released.set()
    assert (await world.ended(0)).state is S.INCONCLUSIVE


# --- cancel ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(CANCELLABLE))
async def test_a_round_is_cancelled_in_every_state_before_its_promotion(open_world: OpenWorld, state: S) -> None:
    tried = {"rollout": {"canary": [0.5]}, "rounds": {"wait_for_warm": False}} if state is S.CANARY else {}
    world = open_world(trigger={"min_examples": 1000}, gate={"patience_s": 600.0}, **tried)
    world.teach()
    await world.here.lead()
    world.trainer.right = 4 if state is S.PROVING else 10  # no better than what serves
    await world.advance(await world.plan(), state)
    request = world.request("cancel_round", round=0, reason="not today")
    world.here.start()
    assert await result(world, request) == ("done", {"round": 0, "state": "cancelled"})
    cancelled = world.round(0)
    assert (cancelled.state, cancelled.reason) == (S.CANCELLED, "not today")
    assert world.path(0)[-2:] == [state.value, "cancelled"]
    assert {version.state for version in world.stores.adapters.all()} <= {"rejected"}
    await world.until(lambda: world.here.control.idle)


async def test_a_training_is_stopped_when_its_round_is_cancelled(open_world: OpenWorld) -> None:
    world = open_world()
    await controlled(world)
    brake = world.trainer.before = Brake()
    await result(world, world.request("start_round", kind="warm"))
    await brake.reached.wait()
    assert (await result(world, world.request("cancel_round", round=0)))[0] == "done"
    assert world.trainer.stopped == 1
    assert world.trainer.retired[-1] is None  # also where it trains elsewhere
    assert world.round(0).reason == "by hand"
    assert (await result(world, world.request("start_round", kind="warm"))) == ("done", {"round": 1})


async def test_a_round_that_waits_for_its_next_try_is_cancelled_at_once(open_world: OpenWorld) -> None:
    world = open_world()
    await controlled(world)
    world.trainer.before = failing(*[TransientError("no place to train")] * 100)
    await result(world, world.request("start_round", kind="warm"))
    await world.until(lambda: world.trainer.begun == 5)
    begun = world.loop.time()
    assert (await result(world, world.request("cancel_round", round=0)))[0] == "done"
    assert world.loop.time() - begun <= 1.0
    assert world.round(0).state is S.CANCELLED
    # Its trouble is over with it: it is not shown any longer, and the next round does not wait for its next try.
    await world.until(lambda: world.here.control.idle)
    assert world.here.control.last_error is None
    world.trainer.before = nothing
    await result(world, world.request("start_round", kind="warm"))
    await world.ended(1)
    assert world.loop.time() - begun <= 4.0


async def test_a_round_that_follows_a_cancelled_one_at_once_does_not_wait_for_its_next_try(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    await controlled(world)
    world.trainer.before = failing(*[TransientError("no place to train")] * 5)
    await result(world, world.request("start_round", kind="warm"))
    await world.until(lambda: world.trainer.begun == 5)
    begun = world.loop.time()
    world.request("cancel_round", round=0)
    world.request("start_round", kind="warm")
    await world.ended(1)
    assert world.loop.time() - begun <= 3.0


async def test_a_promoted_round_is_not_cancelled_and_its_watch_goes_on(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 30.0})
    world.teach()
    world.here.start()
    await world.reaches(0, S.PROMOTED)
    refusal = {"error": "round 0 is promoted; only an open, unpromoted round can be cancelled"}
    assert await result(world, world.request("cancel_round", round=0)) == ("refused", refusal)
    assert (await world.ended(0)).state is S.SETTLED


async def test_an_ended_round_is_not_cancelled(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.here.start()
    await world.ended(0)
    refusal = {"error": "round 0 is settled; only an open, unpromoted round can be cancelled"}
    assert await result(world, world.request("cancel_round", round=0)) == ("refused", refusal)


async def test_a_round_that_there_is_not_is_not_cancelled(open_world: OpenWorld) -> None:
    world = open_world()
    await controlled(world)
    refusal = {"error": "there is no round 7"}
    assert await result(world, world.request("cancel_round", round=7)) == ("refused", refusal)
    assert (await result(world, world.request("start_round", kind="warm")))[0] == "done"


# --- with a round that is open ---------------------------------------------------------------------------------------


async def test_a_rollback_during_the_watch_ends_the_round_as_rolled_back(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 30.0})
    world.teach()
    world.here.start()
    promoted = await world.reaches(0, S.PROMOTED)
    assert await result(world, world.request("rollback")) == ("done", {"from": promoted.adapter, "to": None})
    ended = await world.ended(0)
    assert ended.state is S.ROLLED_BACK
    assert ended.reason == "the alias was moved to None by hand during the watch"


async def test_requests_are_carried_out_while_a_step_runs(open_world: OpenWorld) -> None:
    world = open_world()
    first, second = await controlled(world, 7, 10)
    brake = world.trainer.before = Brake()
    await result(world, world.request("start_round", kind="warm"))
    await brake.reached.wait()
    assert await result(world, world.request("rollback")) == ("done", {"from": second, "to": first})
    assert world.trainer.stopped == 0
    brake.released.set()


async def test_requests_are_carried_out_in_the_order_in_which_they_were_made(open_world: OpenWorld) -> None:
    world = open_world()
    first, second = await controlled(world, 7, 10)
    asked = [world.request("rollback"), world.request("promote", adapter=second), world.request("rollback")]
    answers = [(await world.answered(request)).result for request in asked]
    assert answers == [{"from": second, "to": first}, {"from": first, "to": second}, {"from": second, "to": first}]
