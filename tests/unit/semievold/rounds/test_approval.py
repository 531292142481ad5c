"""A person's word: what is proved waits for it where that is required, and later versions are held against it."""

from __future__ import annotations

from typing import Any

import pytest

from semievold.api import operations
from semievold.round_states import RoundState as S
from tests.control_world import ControlWorld, OpenWorld, Weights, example

MANY = range(1000, 1050)
QUIET = {"new_pseudo_labels": None, "retry_failed_s": 1000.0}


async def result(world: ControlWorld, request: int) -> tuple[str, Any]:
    answered = await world.answered(request)
    return answered.state, answered.result


async def waiting(open_world: OpenWorld, **settings: Any) -> ControlWorld:
    """A world whose warm round is proved and waits for approval."""
    rollout = {"approval": "required", "approval_patience_s": 60.0, "watch_s": 0.0}
    world = open_world(rollout=rollout, trigger=QUIET, **settings)
    world.teach()
    world.here.start()
    await world.reaches(0, S.PROVING)
    await world.until(lambda: world.here.control.waits_for == "approval")
    return world


# --- approval -------------------------------------------------------------------------------------------------------


async def test_what_is_proved_is_promoted_once_a_person_has_said_so(open_world: OpenWorld) -> None:
    world = await waiting(open_world)
    await world.passes(10)
    assert world.round(0).state is S.PROVING
    proved = "significantly better: 18 wins, 0 losses, evidence 2.76e+04 of 20"
    wanted = f"{proved}; a person may `semievol rounds approve 0`"
    assert world.here.control.waiting_for == f"round 0 (warm), which is proving: {wanted}"
    assert wanted in operations.status(world.config, world.stores, world.place)["waiting_for"]
    adapter = world.round(0).adapter
    answer = {"round": 0, "state": "proving", "adapter": adapter}
    assert await result(world, world.request("approve_round", round=0)) == ("done", answer)
    assert (await world.ended(0)).state is S.SETTLED
    assert world.stores.alias.get().adapter == adapter
    assert "approved by a person" in [event["detail"] for event in world.stores.rounds.events(0)]


async def test_a_word_that_was_given_before_the_proof_is_one_word(open_world: OpenWorld) -> None:
    world = open_world(rollout={"approval": "required", "watch_s": 0.0}, trigger=QUIET)
    world.teach()
    await world.here.lead()
    await world.advance(await world.plan(), S.TRAINED)
    request = world.request("approve_round", round=0)
    world.here.start()
    assert (await result(world, request))[0] == "done"
    assert (await world.ended(0)).state is S.SETTLED
    assert "proving" not in world.path(0)


async def test_a_word_does_not_stand_for_a_proof(open_world: OpenWorld) -> None:
    world = open_world(rollout={"approval": "required"}, trigger=QUIET, gate={"patience_s": 20.0})
    world.trainer.right = 4
    world.teach()
    world.here.start()
    await world.reaches(0, S.PROVING)
    await result(world, world.request("approve_round", round=0))
    assert (await world.ended(0)).state is S.INCONCLUSIVE


async def test_a_candidate_that_nobody_approves_in_time_is_not_promoted(open_world: OpenWorld) -> None:
    world = await waiting(open_world)
    begun = world.round(0).updated_at
    ended = await world.ended(0)
    assert ended.state is S.INCONCLUSIVE
    assert (ended.reason or "").endswith("; rollout.approval_patience_s (60 s) is over")
    assert ended.updated_at - begun == pytest.approx(60, abs=2)
    refusal = {"error": "round 0 is inconclusive; there is no version to approve"}
    assert await result(world, world.request("approve_round", round=0)) == ("refused", refusal)


async def test_the_time_for_it_goes_on_over_a_restart(open_world: OpenWorld) -> None:
    world = await waiting(open_world)
    begun = world.round(0).updated_at
    await world.passes(40)
    await world.here.stop()
    world.here = world.process()
    world.here.start()
    ended = await world.ended(0)
    assert ended.updated_at - begun == pytest.approx(60, abs=2)


def lost(count: int) -> range:
    """Questions whose answers both models know."""
    return range(3000, 3000 + 10 * count, 10)


async def test_a_proof_outlives_labels_that_the_candidate_loses_and_a_restart(open_world: OpenWorld) -> None:
    world = await waiting(open_world)
    begun = world.round(0).updated_at
    adapter = world.round(0).adapter
    sound = world.weights[adapter]
    world.weights[adapter] = Weights(0, sound.entropy)
    world.teach(training=(), held_out=lost(9))
    await world.until(lambda: (world.round(0).evaluation or {})["losses"] == 9)
    assert (world.round(0).evaluation or {})["better"] < 20
    world.weights[adapter] = sound
    await world.here.stop()
    world.here = world.process()
    world.here.start()
    await world.passes(30)
    assert world.here.control.waits_for == "approval"
    await result(world, world.request("approve_round", round=0))
    assert (await world.ended(0)).state is S.SETTLED
    assert world.round(0).updated_at - begun < 60


async def test_a_proof_falls_with_a_label_that_it_was_made_of(open_world: OpenWorld) -> None:
    world = await waiting(open_world)
    adapter = world.round(0).adapter
    world.weights[adapter] = Weights(0, world.weights[adapter].entropy)
    world.teach(training=(), held_out=lost(9))
    await world.until(lambda: (world.round(0).evaluation or {})["losses"] == 9)
    assert world.round(0).state is S.PROVING
    won = next(o.outcome.id for o in world.stores.rounds.outcomes(0)["candidate"].values() if o.outcome.correct)
    world.stores.examples.retract([won])
    ended = await world.ended(0)
    assert ended.state is S.INCONCLUSIVE
    assert "no significant difference" in (ended.reason or "")


async def test_labels_that_take_the_proof_back_while_a_person_thinks_reject(open_world: OpenWorld) -> None:
    world = await waiting(open_world)
    world.weights[world.round(0).adapter] = Weights(0, 0.1)
    world.teach(training=(), held_out=[3000 + 10 * ten + digit for ten in range(20) for digit in range(4)])
    assert (await world.ended(0)).state is S.REJECTED


async def test_a_refused_candidate_is_rejected_with_the_reason(open_world: OpenWorld) -> None:
    world = await waiting(open_world)
    answer = {"round": 0, "state": "rejected"}
    request = world.request("refuse_round", round=0, reason="it swears")
    assert await result(world, request) == ("done", answer)
    assert (world.round(0).state, world.round(0).reason) == (S.REJECTED, "refused by a person: it swears")
    assert world.stores.alias.get().generation == 0


async def test_only_what_waits_can_be_refused(open_world: OpenWorld) -> None:
    world = open_world(trigger=QUIET)
    world.teach()
    world.here.start()
    await world.ended(0)
    refusal = {"error": "round 0 is settled; only one that is proving can be refused"}
    assert await result(world, world.request("refuse_round", round=0)) == ("refused", refusal)
    assert await result(world, world.request("refuse_round", round=7)) == ("refused", {"error": "there is no round 7"})
    answer = await result(world, world.request("approve_round", round=7))
    assert answer == ("refused", {"error": "there is no round 7; `semievol rounds list` shows them"})


# --- the anchor -----------------------------------------------------------------------------------------------------


async def served(world: ControlWorld, *rights: int) -> list[str]:
    """Start control with a warm version, and others promoted by rounds one after the other; their names."""
    world.teach(held_out=MANY)
    await world.here.lead()
    names: list[str] = []
    for right in rights:
        world.trainer.right = right
        settled = await world.advance(await world.plan("warm" if not names else "evolve"), S.SETTLED)
        names.append(settled.adapter or "")
        world.ask(range(100 * len(names), 100 * len(names) + 20))
    return names


async def test_the_anchor_is_the_last_version_that_a_person_approved_else_the_warm_one(open_world: OpenWorld) -> None:
    world = open_world(trigger=QUIET)
    assert world.stores.adapters.anchor() is None
    warm, second, third = await served(world, 6, 8, 10)
    anchor = world.stores.adapters.anchor
    assert anchor() == warm
    world.here.stores.rounds.approve(1)
    assert anchor() == second
    world.here.start()
    await world.until(lambda: world.here.control.leads)
    await result(world, world.request("rollback"))  # from the third to the second, by a person
    assert anchor() == second
    await result(world, world.request("promote", adapter=third))
    assert anchor() == third
    await result(world, world.request("rollback"))
    assert anchor() == second
    assert operations.status(world.config, world.stores, world.place)["anchor"] == second


async def drifted(open_world: OpenWorld) -> tuple[ControlWorld, str, str]:
    """A world in which the warm version knows more than the one that serves, and the next one lies between."""
    world = open_world(trigger=QUIET)
    warm, second = await served(world, 7, 10)
    for name, right in ((warm, 10), (second, 4)):
        world.weights[name] = Weights(right, world.weights[name].entropy)
    world.trainer.right = 7
    return world, warm, second


async def test_a_candidate_that_is_better_than_what_serves_and_worse_than_the_anchor_is_rejected(
    open_world: OpenWorld,
) -> None:
    world, warm, _ = await drifted(open_world)
    more = [3000 + number for number in range(30)]
    world.here.stores.examples.retract([example(number).id for number in MANY])
    world.teach(training=(), held_out=more)  # nobody has answered these yet
    loaded = await world.advance(await world.plan("evolve"), S.LOADED)
    ended = await world.here.engine.advance(loaded)
    assert ended.state is S.REJECTED
    assert ended.reason == f"significantly worse than the anchor {warm}: 0 wins, 9 losses, evidence 102 of 20"
    assert ended.evaluation is not None
    assert (ended.evaluation["anchor"]["count"], ended.evaluation["wins"]) == (30, 9)
    assert len(world.stores.rounds.outcomes(ended.number)["anchor"]) == 30


async def test_an_anchor_whose_files_are_lost_is_compared_by_what_it_answered(open_world: OpenWorld) -> None:
    world, warm, _ = await drifted(open_world)
    await world.here.generator.unload_adapter(warm)
    (world.place.adapters / warm / "STABLE").unlink()
    world.teach(training=(), held_out=range(3000, 3200))  # of the old ones the incumbent had known more
    loaded = await world.advance(await world.plan("evolve"), S.LOADED)
    evaluated = await world.here.engine.advance(loaded)
    assert evaluated.state is S.EVALUATED
    assert (evaluated.evaluation or {})["anchor"]["count"] == len(MANY)


async def test_the_anchors_directory_is_not_deleted(open_world: OpenWorld) -> None:
    world = open_world(trigger=QUIET, artifacts={"keep_adapters": 2})
    world.weights[None] = Weights(0, 0.5)
    names = await served(world, 2, 4, 6, 8, 10)
    states = {version.name: version.state for version in world.stores.adapters.all()}
    assert states == {
        names[0]: "retired",
        names[1]: "retired",
        names[2]: "retired",
        names[3]: "previous",
        names[4]: "serving",
    }
    await world.here.fleet.delete_old(0)
    kept = {path.name for path in world.place.adapters.iterdir()}
    assert kept == {names[0], names[3], names[4]}
