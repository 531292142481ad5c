"""A round that selects at a stated risk: whom it is calibrated on, what it keeps of it, and what it says without."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from semievol.examples.split import HoldoutRule
from semievold.api import operations
from semievold.round_states import RoundState as S
from semievold.store.tables import pseudo_labels
from tests.control_world import ControlWorld, OpenWorld, Weights, example

SELECTION = {"theta": 0.5, "risk": {"budget": 0.05, "confidence": 0.95}}
WHOLE = HoldoutRule(0.0, calibration=1.0)


async def serving(world: ControlWorld, calibration: Iterable[int]) -> ControlWorld:
    """A world whose warm adapter knows every answer, with queries that the base model had answered."""
    world.teach()
    world.stores.examples.keep([example(number) for number in calibration], WHOLE)
    await world.here.lead()
    await world.advance(await world.plan(), S.SETTLED)
    world.weights["older"] = Weights(4, 0.2)
    world.ask(range(2000, 2040), adapter="older")
    return world


async def test_a_round_selects_what_the_calibration_examples_certify(open_world: OpenWorld) -> None:
    world = await serving(open_world(selection=SELECTION), range(3000, 3100))
    calibration = {each.id for each in world.stores.examples.calibration()}
    assert len(calibration) == 100
    taken = await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    assert taken.snapshot is not None
    found = taken.snapshot["certificate"]
    assert (found["rule"], found["labels"], found["errors"], found["coverage"]) == ("learn_then_test", 100, 0, 1.0)
    assert taken.snapshot["selected"] == 40
    assert operations.round_detail(world.stores, taken.number)["snapshot"]["certificate"] == found
    rows = (world.place.training(taken).snapshot / "rows.jsonl").read_text()
    assert not [each for each in calibration if f'"{each}"' in rows]
    asked = [request for call in world.here.generator.calls for request in call]
    assert {request.adapter for request in asked if "is 30" in request.messages[-1].content} == {taken.incumbent}


async def test_what_other_configurations_had_answered_is_labelled_again(open_world: OpenWorld) -> None:
    world = await serving(open_world(selection=SELECTION), range(3000, 3100))
    world.ask([2040, 2041])
    with world.database.write() as connection:
        mine = pseudo_labels.c.query_id == "q2041"
        other = [{"configuration": "gone", "text": "", "answer": "odd", "entropy": 0.2}]
        connection.execute(sa.update(pseudo_labels).where(mine).values(candidates=other))
    await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    revisions = {key: row.revision for key, row in world.stores.pseudo_labels.rows(["q2040", "q2041"]).items()}
    assert revisions == {"q2040": 1, "q2041": 2}


async def test_what_asks_the_same_as_a_calibration_example_is_not_trained_on(open_world: OpenWorld) -> None:
    world = await serving(open_world(selection=SELECTION), [*range(3000, 3100), 2000])
    taken = await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    assert world.stores.rounds.members(taken.number)["q2000"] is False
    assert (taken.snapshot or {})["selected"] == 39


async def test_too_few_calibration_labels_end_the_round_and_say_how_many_are_missing(open_world: OpenWorld) -> None:
    world = await serving(open_world(selection=SELECTION), range(3000, 3031))
    begun = world.trainer.begun
    ended = await world.here.engine.advance(await world.plan("evolve"))
    assert ended.state is S.FAILED
    assert world.trainer.begun == begun
    found = (ended.snapshot or {})["certificate"]
    assert found["missing"] == found["needed"] - 31 > 0
    assert f"{found['needed']} calibration labels needed, 31 there: {found['missing']} more" in str(ended.reason)


async def test_calibration_examples_are_neither_retrieved_nor_seen_by_the_gate(open_world: OpenWorld) -> None:
    world = await serving(open_world(selection=SELECTION), range(3000, 3100))
    store = world.stores.examples
    calibrated = {each.id for each in store.calibration()}
    assert not calibrated & {each.id for each in [*store.training(), *store.holdout(), *store.unindexed()]}
    assert (store.counts().calibration, store.counts().holdout_questions) == (100, 30)


async def test_a_question_keeps_its_side_and_its_copies_join_it(open_world: OpenWorld) -> None:
    world = open_world()
    store, rule = world.stores.examples, HoldoutRule(0.2, calibration=0.3)
    store.keep([example(number) for number in range(100)], HoldoutRule(0.2))
    assert store.calibration() == []  # what was there before may have been trained on
    store.keep([example(number) for number in range(100, 300)], rule)
    first = {each.id for each in store.calibration()}
    assert 30 < len(first) < 90
    store.keep([example(number) for number in range(300, 500)], rule)
    assert first < {each.id for each in store.calibration()}
    store.keep([example(number) for number in range(500)], HoldoutRule(0.2))
    assert first < {each.id for each in store.calibration()}
    assert not {f"e{number}" for number in range(100)} & {each.id for each in store.calibration()}
