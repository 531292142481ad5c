"""A round whose proof is not complete is held open for labels that arrive; every way in which that ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from semievol.errors import TransientError
from semievold.api import operations
from semievold.round_states import RoundState as S
from semievold.store.rounds import Round
from tests.control_roles import Roles
from tests.control_world import ControlWorld, OpenWorld, Weights, example, failing

PATIENCE_S = 40.0
TIES = [1000 + 10 * ten + digit for ten in range(5) for digit in range(4)]
"""Twenty questions that base model and candidate both answer rightly."""
FIVE_WINS = [2004, 2005, 2006, 2007, 2008]
"""Five that only the candidate does."""


async def proving(open_world: OpenWorld, *, wins: Iterable[int] = FIVE_WINS, **settings: Any) -> ControlWorld:
    """A world with a round that has 5 wins and no loss, among 25 labels, and waits for more."""
    settings = {"gate": {"patience_s": PATIENCE_S}, **settings}
    world = open_world(trigger={"retry_failed_s": 1000.0, "new_pseudo_labels": None}, **settings)
    world.teach(held_out=[*TIES, *wins])
    world.here.start()
    await world.reaches(0, S.PROVING)
    await world.until(lambda: "more labels" in world.here.control.waiting_for)
    return world


def asked(world: ControlWorld) -> list[str]:
    """The questions that were asked since the last time, in order."""
    calls = [request.messages[-1].content for call in world.here.generator.calls for request in call]
    world.here.generator.calls.clear()
    return calls


def evidence(round_: Round) -> tuple[int, int, int]:
    assert round_.evaluation is not None
    return round_.evaluation["count"], round_.evaluation["wins"], round_.evaluation["losses"]


async def test_labels_that_arrive_while_the_round_waits_promote_its_candidate(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    assert evidence(world.round(0)) == (25, 5, 0)
    assert world.here.alias.adapter is None
    asked(world)
    world.teach(training=(), held_out=[3004])
    await world.until(lambda: evidence(world.round(0)) == (26, 6, 0))
    assert asked(world) == [example(3004).query.question] * 2
    world.teach(training=(), held_out=[3005])
    promoted = await world.reaches(0, S.PROMOTED)
    assert evidence(promoted) == (27, 7, 0)
    assert world.here.alias.adapter == promoted.adapter
    assert (await world.ended(0)).state is S.SETTLED
    assert world.path(0)[-4:] == ["attested", "proving", "promoted", "settled"]


async def test_what_is_still_needed_is_said_wherever_somebody_looks(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    needed = "about 10 more labels at the present rate of disagreement"
    waiting = f"5 wins, 0 losses, evidence 10.5 of 20; {needed}"
    control = world.here.control
    assert control.waiting_for == f"round 0 (warm), which is proving: no significant difference: {waiting}"
    assert control.waits_for == "evidence"
    seen = operations.status(world.config, world.stores, world.place)
    assert needed in seen["waiting_for"]
    assert needed in seen["round"]["gate"]["reason"]
    assert (seen["round"]["gate"]["evidence"], seen["round"]["gate"]["labels_needed"]) == (pytest.approx(10.5), 10)
    roles = Roles(world)
    assert needed in roles.observer.held()["rounds"]
    roles.observer.observe()
    await roles.state_watch.look()
    text = roles.metrics.render().decode()
    assert 'semievol_gate_labels_needed{workload="w"} 10.0' in text
    assert 'semievol_gate_evidence{workload="w"} 10.5' in text
    assert 'semievol_gate_pairs{outcome="win",workload="w"} 5.0' in text
    assert 'semievol_gate_pairs{outcome="tie",workload="w"} 20.0' in text
    assert 'semievol_waiting{what="evidence",workload="w"} 1.0' in text
    world.teach(training=(), held_out=[3004, 3005])
    await world.ended(0)
    await roles.state_watch.look()
    assert "semievol_gate_labels_needed{" not in roles.metrics.render().decode()


async def test_no_other_round_starts_meanwhile_and_patience_has_an_end(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    begun = world.round(0).updated_at
    ended = await world.ended(0)
    assert ended.state is S.INCONCLUSIVE
    assert ended.reason is not None
    assert ended.reason.endswith("at the present rate of disagreement; gate.patience_s (40 s) is over")
    assert ended.updated_at - begun == pytest.approx(PATIENCE_S, abs=2)
    assert [each.number for each in world.stores.rounds.all()] == [0]
    assert await world.here.generator.loaded_adapters() == frozenset()


async def test_without_patience_the_first_look_decides(open_world: OpenWorld) -> None:
    world = open_world(gate={"patience_s": 0.0})
    world.teach(held_out=[*TIES, *FIVE_WINS])
    world.here.start()
    assert (await world.ended(0)).state is S.INCONCLUSIVE
    assert "proving" not in world.path(0)


async def test_labels_that_show_that_nothing_is_gained_end_the_wait(open_world: OpenWorld) -> None:
    world = await proving(open_world, wins=FIVE_WINS[:2])
    world.teach(training=(), held_out=[4000 + 10 * ten + digit for ten in range(60) for digit in range(4)])
    ended = await world.ended(0)
    assert ended.state is S.INCONCLUSIVE
    assert (ended.reason or "").startswith("no gain of 5% or more: 2 wins, 0 losses")
    assert world.loop.time() < PATIENCE_S / 2


async def test_labels_that_show_it_worse_reject_the_candidate(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    world.weights[world.round(0).adapter] = Weights(0, world.weights[world.round(0).adapter].entropy)
    world.teach(training=(), held_out=[3000 + 10 * ten + digit for ten in range(5) for digit in range(4)])
    ended = await world.ended(0)
    assert (ended.state, evidence(ended)) == (S.REJECTED, (45, 5, 20))
    assert (ended.reason or "").startswith("significantly worse: 5 wins, 20 losses")


async def test_too_few_labels_are_waited_for_and_never_promote(open_world: OpenWorld) -> None:
    world = open_world(gate={"patience_s": PATIENCE_S}, trigger={"new_pseudo_labels": None, "retry_failed_s": 999.0})
    world.teach(held_out=FIVE_WINS)
    await world.here.lead()
    await world.plan()
    world.here.start()
    await world.reaches(0, S.PROVING)
    world.teach(training=(), held_out=range(3000, 3014))  # with 13 wins among 19 labels
    await world.passes(5)
    assert world.round(0).state is S.PROVING
    assert (world.round(0).evaluation or {})[
        "reason"
    ] == "19 held-out examples, fewer than gate.min_holdout (20): label more"
    world.teach(training=(), held_out=[3014])
    assert (await world.ended(0)).state is S.SETTLED


# --- what counts ------------------------------------------------------------------------------------------------------


async def test_a_label_counts_once_however_often_and_under_whichever_id_it_comes(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    same = example(FIVE_WINS[0])
    for _ in range(3):
        world.teach(training=(), held_out=FIVE_WINS)
    copies = [type(same)(type(same.query)(f"copy{n}", same.query.question), same.answer) for n in range(9)]
    world.stores.examples.upsert([(each, True) for each in copies])
    await world.passes(10)
    assert evidence(world.round(0)) == (25, 5, 0)


async def test_a_label_that_is_corrected_or_taken_back_counts_as_it_is_now(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    changed = example(FIVE_WINS[0])
    world.stores.examples.upsert([(type(changed)(changed.query, "odd"), True)])
    await world.until(lambda: evidence(world.round(0)) == (25, 4, 1))
    world.stores.examples.retract([changed.id])
    await world.until(lambda: evidence(world.round(0)) == (24, 4, 0))


async def test_answers_under_other_settings_do_not_count(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    await world.here.stop()
    stale = {**(world.round(0).evaluation or {}), "settings": "of yesterday"}
    world.stores.rounds.note(0, S.PROVING, stale, {})
    world.here = world.process()
    world.here.start()
    await world.until(lambda: (world.round(0).evaluation or {})["settings"] != "of yesterday")
    assert len(asked(world)) >= 50
    assert evidence(world.round(0)) == (25, 5, 0)


# --- what goes on and what ends -----------------------------------------------------------------------------------


async def test_a_process_that_takes_over_goes_on_from_the_same_evidence_and_asks_nothing_again(
    open_world: OpenWorld,
) -> None:
    world = await proving(open_world)
    world.teach(training=(), held_out=[3004])
    await world.until(lambda: evidence(world.round(0)) == (26, 6, 0))
    begun = world.round(0).updated_at
    await world.here.stop()
    world.here = world.process()
    world.here.start()
    await world.until(lambda: world.here.control.waits_for == "evidence")
    assert evidence(world.round(0)) == (26, 6, 0)
    assert world.round(0).adapter in await world.here.generator.loaded_adapters()
    assert example(3004).query.question not in asked(world)
    ended = await world.ended(0)
    assert ended.updated_at - begun == pytest.approx(PATIENCE_S, abs=2)


async def test_waiting_uses_up_no_attempt_and_a_look_that_kills_the_process_does(open_world: OpenWorld) -> None:
    world = await proving(open_world, rounds={"max_attempts": 2})
    assert world.round(0).attempts == 0
    await world.here.stop()
    for _ in range(2):
        world.stores.rounds.begin_attempt(0)
    world.here = world.process()
    world.here.start()
    ended = await world.ended(0)
    assert (ended.state, ended.reason) == (S.FAILED, "state proving was begun 2 times and never ended")


async def test_an_engine_that_is_away_is_waited_for(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    world.here.generator.before_answer = failing(TransientError("away"), TransientError("away"))
    world.teach(training=(), held_out=[3004, 3005])
    assert (await world.ended(0)).state is S.SETTLED


async def test_a_version_that_an_operator_promotes_meanwhile_ends_the_round(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    other = world.round(0).adapter
    world.stores.alias.move(other)
    ended = await world.ended(0)
    assert ended.state is S.FAILED
    assert ended.reason == f"proved against None, but {other} serves now; start another round"


async def test_a_candidate_whose_directory_is_lost_fails_the_round(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    (world.place.adapters / (world.round(0).adapter or "") / "STABLE").unlink()
    world.teach(training=(), held_out=[3004, 3005])
    ended = await world.ended(0)
    assert ended.state is S.FAILED
    assert "no STABLE marker" in (ended.reason or "")
    assert world.stores.alias.get().generation == 0


async def test_what_serves_the_candidate_is_attested_again_before_it_is_promoted(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    world.weights[world.round(0).adapter] = Weights(10, world.weights[None].entropy)
    world.teach(training=(), held_out=[3004, 3005])
    ended = await world.ended(0)
    assert ended.state is S.FAILED
    assert ended.reason == "attestation: answers are the base model's: the adapter is not applied"


async def test_a_run_that_is_to_end_when_idle_does_not_wait_for_labels(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    assert world.here.control.idle
    roles = Roles(world)
    reasons: list[str] = []
    stop = asyncio.Event()
    task = asyncio.create_task(roles.idle_watch.run(stop, reasons.append))
    await world.until(lambda: reasons)
    stop.set()
    await task
    assert reasons[0].startswith("idle (round 0 (warm), which is proving")
    assert world.round(0).state is S.PROVING
