"""A canary: a version answers a rising share of the clients, and only what its answers stand is promoted."""

from __future__ import annotations

from typing import Any

import pytest

from semievol.errors import TransientError
from semievold.api import operations
from semievold.console.history import History
from semievold.monitoring.figures import FigureStore
from semievold.rollout.answers import WINDOW
from semievold.round_states import RoundState as S
from semievold.rounds.observing import RoundObserver
from semievold.store.rollout.canaries import Counted, Tally
from tests.control_world import ControlWorld, OpenWorld, Weights, failing

QUIET = {"new_pseudo_labels": None, "retry_failed_s": 1000.0}
ROLLOUT_PATIENCE_S = 20.0
ROLLOUT = {
    "canary": [0.05, 0.25, 1],
    "canary_min_s": 4.0,
    "canary_min_answers": 100,
    "canary_patience_s": ROLLOUT_PATIENCE_S,
    "watch_s": 0.0,
}
GOOD = Tally(answers=200, timed=200, read=200)
FAILING = Tally(answers=200, failed=60, timed=140, read=140)


async def on_trial(open_world: OpenWorld, **rollout: Any) -> ControlWorld:
    """A world in which a warm version serves and the next round's is on trial."""
    world = open_world(rollout={**ROLLOUT, **rollout}, trigger=QUIET)
    world.trainer.right = 7
    world.teach()
    world.here.start()
    assert (await world.ended(0)).state is S.SETTLED
    world.trainer.right = 10
    world.ask(range(2000, 2030))
    world.request("start_round", kind="evolve")
    await world.reaches(1, S.CANARY)
    return world


def count(world: ControlWorld, tally: Tally, incumbent: Tally = GOOD, *, process: str = "a", stage: int = 0) -> None:
    """A gateway tells what it counted."""
    counted = [Counted("canary", stage, "gateway", tally), Counted("incumbent", 0, "gateway", incumbent)]
    world.stores.canaries.count(str(world.round(1).adapter), process, counted)


def stage(world: ControlWorld) -> int:
    return int((world.round(1).canary or {})["stage"])


def moved_at(world: ControlWorld) -> tuple[float | None, float | None]:
    """When the alias moved last, by the console and by the metrics."""
    database, workload = world.stores.database, world.config.workload.name
    return History(database, workload).serving_since(), FigureStore(database, workload).read().alias_moved_at


async def restarted(world: ControlWorld) -> None:
    await world.here.stop()
    world.here = world.process()
    world.here.start()
    await world.until(lambda: world.here.control.leads)


# --- stages -----------------------------------------------------------------------------------------------------------


async def test_a_version_answers_rising_shares_and_is_promoted_after_the_last(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    warm, adapter = world.round(0).adapter, world.round(1).adapter
    seen = []
    for place in range(3):
        await world.until(lambda place=place: stage(world) == place)
        alias = world.stores.alias.get()
        assert alias.canary is not None
        assert (alias.adapter, alias.canary.adapter, alias.canary.stage) == (warm, adapter, place)
        seen.append((alias.canary.share, alias.canary.salt))
        count(world, GOOD, stage=place)
    assert [share for share, _ in seen] == [0.05, 0.25, 1]
    assert len({salt for _, salt in seen}) == 1
    assert (await world.ended(1)).state is S.SETTLED
    alias = world.stores.alias.get()
    assert (alias.adapter, alias.previous, alias.canary) == (adapter, warm, None)
    assert world.path(1)[-5:] == ["canary", "canary", "canary", "promoted", "settled"]


async def test_a_stage_lasts_its_time_however_many_answers_there_are(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    begun = (world.round(1).canary or {})["stage_at"]
    count(world, GOOD)
    await world.until(lambda: stage(world) == 1)
    assert (world.round(1).canary or {})["stage_at"] - begun == pytest.approx(4, abs=1.5)


@pytest.mark.parametrize(
    ("tally", "incumbent", "wanted"),
    [
        (Tally(), Tally(), "100 more answers of 100 by the version on trial and 100 more answers of 100 by the one"),
        (Tally(99, timed=99), GOOD, "1 more answers of 100 by the version on trial"),
        (GOOD, Tally(40, timed=40), "60 more answers of 100 by the one that serves"),
    ],
)
async def test_missing_answers_pass_no_stage_and_what_is_waited_for_is_said(
    open_world: OpenWorld, tally: Tally, incumbent: Tally, wanted: str
) -> None:
    world = await on_trial(open_world)
    count(world, tally, incumbent)
    await world.passes(8)
    assert stage(world) == 0
    assert world.here.control.waits_for == "answers"
    said = f"round 1 (evolve), which is canary: stage 1 of 3 (5 % of the clients) waits for {wanted}"
    assert world.here.control.waiting_for.startswith(said)
    status = operations.status(world.config, world.stores, world.place)
    assert status["waiting_for"].startswith(said)
    assert (status["canary"]["stage"], status["canary"]["share"]) == ("1 of 3", 0.05)
    assert world.here.control.idle


async def test_more_answers_of_what_serves_than_are_kept_are_not_waited_for(open_world: OpenWorld) -> None:
    world = await on_trial(open_world, canary_min_answers=WINDOW + 500)
    count(world, Tally(WINDOW + 500), Tally(WINDOW - 1))
    await world.passes(8)
    assert "waits for 1 more answers of 1000 by the one that serves" in world.here.control.waiting_for
    count(world, Tally(WINDOW + 500), Tally(WINDOW))
    await world.until(lambda: stage(world) == 1)


async def test_what_serves_is_not_waited_for_where_nobody_asks_it(open_world: OpenWorld) -> None:
    world = await on_trial(open_world, canary=[1])
    count(world, Tally(99), Tally())
    await world.passes(8)
    assert "waits for 1 more answers of 100 by the version on trial" in world.here.control.waiting_for
    count(world, GOOD, Tally())
    assert (await world.ended(1)).state is S.SETTLED


async def test_a_canary_that_nobody_asks_ends_as_inconclusive_and_answers_nobody(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    ended = await world.ended(1)
    assert ended.state is S.INCONCLUSIVE
    assert (ended.reason or "").endswith("rollout.canary_patience_s (20 s) is over")
    assert world.stores.alias.get().canary is None
    assert world.stores.alias.get().adapter == world.round(0).adapter
    await world.until(lambda: ended.adapter not in world.here.generator.adapters)


async def test_without_shares_nothing_is_tried_first(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 0.0}, trigger=QUIET)
    world.teach()
    world.here.start()
    assert (await world.ended(0)).state is S.SETTLED
    assert "canary" not in world.path(0)
    assert world.stores.alias.get().generation == 1


async def test_what_the_intake_waits_for_is_not_tried_first_on_clients_of_the_untaught_model(
    open_world: OpenWorld,
) -> None:
    world = await on_trial(open_world)
    assert "canary" not in world.path(0)


async def test_once_the_intake_does_not_wait_a_version_that_follows_the_base_model_is_tried_first(
    open_world: OpenWorld,
) -> None:
    world = open_world(rollout=ROLLOUT, trigger=QUIET)
    world.teach()
    world.here.start()
    assert (await world.ended(0)).state is S.SETTLED
    assert (await world.answered(world.request("rollback"))).state == "done"
    world.ask(range(2000, 2030))
    world.request("start_round", kind="evolve")
    await world.reaches(1, S.CANARY)
    assert world.round(1).incumbent is None


async def test_where_the_base_model_is_held_to_be_of_use_the_first_version_is_tried_too(open_world: OpenWorld) -> None:
    world = open_world(rollout=ROLLOUT, trigger=QUIET, rounds={"wait_for_warm": False})
    world.teach()
    world.here.start()
    await world.reaches(0, S.CANARY)
    alias = world.stores.alias.get()
    assert (alias.adapter, alias.canary and alias.canary.adapter) == (None, world.round(0).adapter)
    await world.here.follower.look()
    assert not world.here.follower.warm_ended.is_set()  # nothing was promoted, nor decided
    assert not RoundObserver(world.config, world.stores).warm_ended()
    assert moved_at(world) == (None, None)
    request = world.request("rollback")
    assert (await world.answered(request)).result == {"from": world.round(0).adapter, "to": None, "round": 0}
    request = world.request("rollback")
    refusal = {"error": "nothing was promoted yet; there is nothing to roll back to"}
    assert (await world.answered(request)).result == refusal


# --- breaches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tally", "said"),
    [
        (FAILING, "errors: 60 of 200 requests failed (30.0%)"),
        (Tally(200, 0, 200, 80, 200, 0), "slow answers: 80 of 200 answers were slow (40.0%)"),
        (Tally(200, 0, 200, 0, 200, 50), "parse failures: 50 of 200 answers do not parse (25.0%)"),
    ],
)
async def test_a_breach_takes_the_version_back_within_a_second_and_says_which_test_found_it(
    open_world: OpenWorld, tally: Tally, said: str
) -> None:
    world = await on_trial(open_world)
    adapter = world.round(1).adapter
    began = world.loop.time()
    count(world, tally)
    await world.until(lambda: world.stores.alias.get().canary is None)
    assert world.loop.time() - began <= 1.0
    ended = await world.ended(1)
    assert ended.state is S.ROLLED_BACK
    assert ended.reason is not None
    assert ended.reason.startswith(f"stage 1 of 3 (5 % of the clients): {said}")
    assert (ended.canary or {})["findings"]
    assert [each["breach"] for each in (ended.canary or {})["findings"]].count(True) == 1
    assert world.stores.alias.get().adapter == world.round(0).adapter
    found = world.stores.adapters.get(str(adapter))
    assert found is not None
    assert found.state == "rejected"


async def test_labels_that_come_meanwhile_take_back_what_is_wrong_more_often(open_world: OpenWorld) -> None:
    world = await on_trial(open_world, canary_patience_s=200.0)
    adapter = str(world.round(1).adapter)
    world.weights[adapter] = Weights(0, world.weights[adapter].entropy)
    world.teach(training=(), held_out=range(3000, 3090, 10))  # the version that serves answers these rightly
    ended = await world.ended(1)
    assert ended.state is S.ROLLED_BACK
    assert "accuracy: of 9 labels 9 are right by the version before alone" in (ended.reason or "")
    assert world.stores.alias.get().canary is None


async def test_a_single_blip_takes_nothing_back(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    count(world, Tally(answers=40, failed=2, timed=38, read=38), Tally(answers=400, timed=400, read=400))
    await world.passes(3)
    assert world.round(1).state is S.CANARY


async def test_an_outage_that_both_versions_suffer_takes_nothing_back(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    count(world, FAILING, Tally(answers=1000, failed=290, timed=710, read=710))
    await world.until(lambda: stage(world) == 1)
    assert world.round(1).state is S.CANARY


async def test_evidence_of_all_processes_and_stages_counts_together(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    count(world, Tally(answers=120, failed=3, timed=117), Tally(answers=1000, failed=1, timed=999))
    await world.until(lambda: stage(world) == 1)
    for process in "bcd":
        count(world, Tally(answers=30, failed=2, timed=28), Tally(), process=process, stage=1)
    assert (await world.ended(1)).state is S.ROLLED_BACK
    assert "9 of 210 requests failed" in (world.round(1).reason or "")


async def test_how_slow_answers_are_does_not_count_where_only_one_version_is_asked(open_world: OpenWorld) -> None:
    world = await on_trial(open_world, canary=[0.5, 1])
    count(world, GOOD)
    await world.until(lambda: stage(world) == 1)
    count(world, Tally(200, 0, 200, 150, 200, 0), stage=1)
    assert (await world.ended(1)).state is S.SETTLED


# --- by hand ----------------------------------------------------------------------------------------------------------


async def test_a_rollback_ends_the_canary_and_what_serves_goes_on(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    warm, adapter = world.round(0).adapter, world.round(1).adapter
    (promoted_at,) = (each["at"] for each in world.stores.rounds.events(0) if each["to_state"] == S.PROMOTED)
    began = world.loop.time()
    answered = await world.answered(world.request("rollback"))
    assert world.loop.time() - began <= 1.0
    assert (answered.state, answered.result) == ("done", {"from": adapter, "to": warm, "round": 1})
    ended = world.round(1)
    assert (ended.state, ended.reason) == (S.ROLLED_BACK, "rolled back by hand during its canary")
    alias = world.stores.alias.get()
    assert (alias.adapter, alias.canary) == (warm, None)
    assert moved_at(world) == pytest.approx((promoted_at, promoted_at), abs=0.01)  # it served all along
    await world.until(lambda: adapter not in world.here.generator.adapters)


async def test_a_stage_is_ended_by_hand(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    for place in range(3):
        answered = await world.answered(world.request("advance_round", round=1))
        assert (answered.state, answered.result) == ("done", {"round": 1, "stage": place + 1})
        await world.until(lambda place=place: world.round(1).state is not S.CANARY or stage(world) > place)
    assert (await world.ended(1)).state is S.SETTLED
    assert world.stores.alias.get().adapter == world.round(1).adapter


async def test_a_round_without_a_canary_has_no_stage_to_end(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    refusal = {"error": "round 0 is settled; only one in its canary has stages"}
    answered = await world.answered(world.request("advance_round", round=0))
    assert (answered.state, answered.result) == ("refused", refusal)


async def test_a_breach_counts_although_a_stage_was_ended_by_hand(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    await world.answered(world.request("advance_round", round=1))
    count(world, FAILING)
    assert (await world.ended(1)).state is S.ROLLED_BACK


async def test_a_canary_is_cancelled_with_its_round(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    answered = await world.answered(world.request("cancel_round", round=1))
    assert answered.state == "done"
    assert world.stores.alias.get().canary is None
    assert world.here.alias.canary is None


async def test_another_version_that_is_promoted_by_hand_ends_the_canary(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    other = world.round(1).adapter
    answered = await world.answered(world.request("promote", adapter=other))
    assert answered.state == "done"
    ended = await world.ended(1)
    assert ended.state is S.FAILED  # nothing spoke against it, nor against what it learned
    assert ended.reason == f"the alias was moved to {other} by hand during the canary"
    assert world.stores.alias.get().canary is None


async def test_while_frozen_no_stage_passes_and_a_breach_still_takes_back(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    world.stores.freezes.freeze("a look at it")
    count(world, GOOD)
    await world.passes(8)
    assert stage(world) == 0
    assert "frozen (a look at it)" in world.here.control.waiting_for
    count(world, FAILING)
    assert (await world.ended(1)).state is S.ROLLED_BACK


async def test_while_frozen_patience_ends_no_canary(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    world.stores.freezes.freeze("a look at it")
    over = world.loop.time() + 2 * ROLLOUT_PATIENCE_S
    await world.until(lambda: world.loop.time() > over)
    assert world.round(1).state is S.CANARY


async def test_a_version_whose_label_is_taken_back_is_on_trial_no_longer(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    world.stores.retractions.retract("e1")
    ended = await world.ended(1)
    assert ended.state is S.FAILED
    assert "'e1', which was taken back" in (ended.reason or "")
    assert world.stores.alias.get().canary is None


# --- restarts ---------------------------------------------------------------------------------------------------------


async def test_a_canary_goes_on_from_its_stage_and_evidence_after_a_restart(open_world: OpenWorld) -> None:
    world = await on_trial(open_world, canary_patience_s=200.0)
    count(world, GOOD)
    await world.until(lambda: stage(world) == 1)
    count(world, Tally(answers=60, failed=1, timed=59), stage=1)
    await world.until(lambda: (world.round(1).canary or {}).get("answers") == 60)
    await world.passes(5)
    before, alias = dict(world.round(1).canary or {}), world.stores.alias.get()
    for _ in range(7):  # more often than rounds.max_attempts
        await restarted(world)
        await world.until(lambda: world.here.alias.canary is not None)
        await world.passes(2)
    assert world.stores.alias.get() == alias
    assert world.round(1).state is S.CANARY
    after = dict(world.round(1).canary or {})
    assert after == before
    assert world.round(1).adapter in world.here.generator.adapters
    count(world, Tally(answers=130, failed=1, timed=129), stage=1)
    await world.until(lambda: stage(world) == 2)


async def test_a_process_that_tells_its_counts_again_counts_nothing_twice(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    for _ in range(5):
        count(world, Tally(answers=60, timed=60))
    await world.passes(6)
    assert (world.round(1).canary or {})["answers"] == 60
    assert stage(world) == 0


async def test_a_canary_waits_for_an_engine_that_is_away(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    await world.here.stop()
    world.here = world.process()
    world.here.generator.before_load = failing(*[TransientError("the engine is away")] * 3)
    world.here.start()
    count(world, GOOD)
    await world.until(lambda: stage(world) == 1)


async def test_a_process_that_follows_loads_what_is_on_trial_before_it_answers_with_it(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    other = world.process(exclusive=False)
    other.generator.adapters.clear()
    assert other.alias.canary == world.round(1).adapter  # it began with it
    await other.fleet.settle()
    assert set(other.generator.adapters) == {world.round(0).adapter, world.round(1).adapter}
    count(world, FAILING)
    await world.ended(1)
    await other.follower.look()
    assert (other.alias.canary, other.alias.adapter) == (None, world.round(0).adapter)
