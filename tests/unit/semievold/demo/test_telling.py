"""What the summary says the daemon did by itself, told of rounds of the real loop."""

from __future__ import annotations

import pytest

from semievold.demo.customers import CustomerRecord, Stage
from semievold.demo.scenario import Story
from semievold.demo.telling import tell
from semievold.round_states import RoundState as S
from tests.control_world import ANSWERS, OpenWorld, Weights, example
from tests.unit.semievold.drift.test_watch import looked, opened, traffic
from tests.unit.semievold.review.test_gate import number
from tests.unit.semievold.review.test_queue import proving
from tests.unit.semievold.rounds.test_canary import on_trial

ALL = {"share": 1.0, "per_second": 1000.0}
NEVER = (
    "a gate that opens and is closed by people's labels",
    "a canary",
    "a version that learned from lies and is taken back by itself",
    "a drift event that names mail out of scope",
)


async def test_a_gate_that_was_open_is_told_with_its_pairs_its_labels_and_how_it_closed(open_world: OpenWorld) -> None:
    world, desk = await proving(open_world, shadow=ALL, review={"max_teach": 0, "max_gate": 40})
    world.ask(range(4000, 4040))
    await world.until(lambda: world.stores.shadow_pairs.answered(0) == 40)
    for item in await desk.look():
        await desk.reviewers.give(item["review"], ANSWERS[number(item) % 2], "terminal")
    await desk.settled()
    assert (await world.ended(0)).state is S.SETTLED
    told = tell(world.stores, Story())
    (gate,) = told.gates
    assert (gate.round, gate.pairs, gate.differ, gate.labels) == (0, 40, 24, 40)
    assert gate.opened.startswith("no significant difference: 5 wins, 0 losses")
    assert gate.closed.startswith("significantly better: ")
    assert gate.open_s > 0
    sentence = told.sentences()[0]
    assert "40 queries were answered by both versions, 24 of them differently; people gave 40 labels" in sentence


async def test_a_gate_that_never_opened_and_a_version_that_stayed_are_not_told(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.here.start()
    assert (await world.ended(0)).state is S.SETTLED
    told = tell(world.stores, Story())
    assert (told.gates, told.canaries, told.rollbacks, told.drift) == ((), (), (), ())
    assert told.sentences() == tuple(f"Not seen in this run: {each}." for each in NEVER)
    assert told.as_json()["not_seen"] == NEVER


async def test_a_version_that_was_taken_back_is_told_with_the_test_its_evidence_and_the_lie(
    open_world: OpenWorld,
) -> None:
    world = await on_trial(open_world, canary_patience_s=200.0)
    adapter, serving = str(world.round(1).adapter), str(world.round(0).adapter)
    world.weights[adapter] = Weights(0, world.weights[adapter].entropy)
    world.teach(training=(), held_out=range(3000, 3090, 10))
    assert (await world.ended(1)).state is S.ROLLED_BACK
    by = {"ann": {adapter}, "bob": {serving}, "cem": {serving}}
    record = CustomerRecord(answered_by={Stage(1, "1 of 3", 0.05): by})
    told = tell(world.stores, Story(customers=record, poisoned=1, lie="even"))
    (canary,), (back,) = told.canaries, told.rollbacks
    assert str(canary) == "Round 1 was on trial with 5 % of the customers (1 of 3); each kept its version."
    assert (back.round, back.test, back.alarm) == (1, "accuracy", 20.0)
    assert back.evidence == pytest.approx(102.3)  # 2^10 / 10 - 1/10: nine losses and no win
    assert back.detail == "of 9 labels 9 are right by the version before alone, 0 by this one alone"
    assert "had learned from labels that all said 'even', and passed its gate" in str(back)
    assert told.as_json()["rollbacks"][0]["test"] == "accuracy"
    assert set(NEVER) - set(told.not_seen) == {NEVER[1], NEVER[2]}
    assert NEVER[2] in tell(world.stores, Story(poisoned=0)).not_seen  # another one was taken back


async def test_a_customer_that_two_versions_answered_within_a_stage_is_told(open_world: OpenWorld) -> None:
    world = await on_trial(open_world)
    adapter, serving = str(world.round(1).adapter), str(world.round(0).adapter)
    by = {"ann": {adapter, serving}, "bob": {serving}}
    (canary,) = tell(world.stores, Story(customers=CustomerRecord(answered_by={Stage(1, "1 of 3", 0.05): by}))).canaries
    assert (canary.stages, canary.both) == (((0.05, 2, 1),), 1)
    assert str(canary).endswith("1 were answered by both within a stage.")


async def test_drift_is_told_as_one_event_that_names_the_mail(open_world: OpenWorld) -> None:
    world = await opened(open_world)
    traffic(world, range(300, 500), similarity=0.3, entropy=0.3, about="job application")
    await looked(world)
    (event,) = (told := tell(world.stores, Story())).drift
    assert (event.number, event.kind, event.also) == (1, "input", ("confidence",))
    assert {"job", "application"} <= set(event.words)
    sentence = told.sentences()[0]
    assert sentence.startswith("Drift event 1, input (part of it: confidence): queries are less like the examples")
    assert example(1).query.question not in sentence
