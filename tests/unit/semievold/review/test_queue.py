"""What is put before people, in which order, and how much of it; and that it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from semievol.examples.near import near_key
from semievol.types import Example, Query
from semievold.round_states import RoundState as S
from semievold.store.pseudo_labels import NewLabel, query_hash
from tests.control_world import ControlWorld, OpenWorld, example
from tests.reviewers import ReviewDesk
from tests.scripted import pseudo_label
from tests.unit.semievold.rounds.test_proving import FIVE_WINS, TIES


async def proving(open_world: OpenWorld, **settings: Any) -> tuple[ControlWorld, ReviewDesk]:
    """A round that has 5 wins and no loss, and waits for more."""
    settings.setdefault("gate", {"patience_s": 10_000.0})
    world = open_world(trigger={"retry_failed_s": 1000.0, "new_pseudo_labels": None}, **settings)
    world.teach(held_out=[*TIES, *FIVE_WINS])
    world.here.start()
    await world.reaches(0, S.PROVING)
    return world, ReviewDesk(world)


async def leading(open_world: OpenWorld, **settings: Any) -> tuple[ControlWorld, ReviewDesk]:
    world = open_world(**settings)
    await world.here.take_lease()
    return world, ReviewDesk(world)


def ask(world: ControlWorld, question: str, query_id: str, **fields: Any) -> None:
    label = replace(pseudo_label(query_id, question, "odd", 0.2, "now"), **fields)
    world.stores.pseudo_labels.add([NewLabel(label, query_hash(label.query))])


async def test_a_gate_that_waits_gets_questions_in_an_order_that_nobody_can_foresee(open_world: OpenWorld) -> None:
    world, desk = await proving(open_world, review={"max_gate": 5, "max_teach": 0})
    assert await desk.look() == []
    world.ask(range(4000, 4040))
    items = await desk.look()
    assert [item["purpose"] for item in items] == ["gate"] * 5
    others = ReviewDesk(world, "another secret").queue._drawing.for_gate(world.round(0), 40)
    drawn = [item["id"] for item in items]
    assert drawn != [draft.query.id for draft in others][:5]
    assert sorted(draft.query.id for draft in others) == sorted({f"q{n}" for n in range(4000, 4040)} - set(drawn))
    again = ReviewDesk(world)
    assert [item["id"] for item in await again.look()] == drawn


async def test_no_answer_is_shown_at_a_gate_and_none_of_a_question_that_teaches_says_whose_it_is(
    open_world: OpenWorld,
) -> None:
    world, desk = await proving(open_world)
    world.ask([4000])
    (gate,) = await desk.look()
    assert (gate["candidates"], gate["answers"], gate["round"]) == ([], ["even", "odd"], 0)
    assert "why" not in gate
    assert {"answer", "adapter", "entropy", "agreement"}.isdisjoint(gate)


async def test_a_gate_asks_nothing_that_is_known_was_taught_or_came_before_the_snapshot(open_world: OpenWorld) -> None:
    world, desk = await leading(open_world, review={"max_teach": 0}, gate={"patience_s": 10_000.0})
    world.teach(held_out=[*TIES, *FIVE_WINS])
    ask(world, "is 77 even?", "early")
    await world.here.fleet.follow()
    round_ = await world.advance(await world.plan(), S.PROVING)
    assert round_.state is S.PROVING
    ask(world, "Is 77  even??", "early-again")
    ask(world, "is 3 even?", "taught")
    ask(world, "IS 2004 even?", "held-out")
    ask(world, "is 78 even?", "new")
    ask(world, "is 78 even", "new-again")
    (item,) = await desk.look()
    assert (item["id"], item["times"]) == ("new", 2)


async def test_what_teaches_is_what_is_unsure_frequent_and_far_from_the_examples(open_world: OpenWorld) -> None:
    world, desk = await leading(open_world, review={"max_teach": 4})
    ask(world, "is it sure?", "sure", entropy=0.0)
    ask(world, "is it unsure?", "unsure", agreement=0.5)
    ask(world, "is it near an example?", "near", agreement=0.5, neighbours=(("e1", 0.99),))
    ask(world, "is it far from all?", "far", agreement=0.5, neighbours=(("e1", 0.2),))
    for number in range(5):
        ask(world, "is it asked often?" + " " * number, f"often{number}", agreement=0.5)
    items = await desk.look()
    assert [item["id"] for item in items] == ["often0", "unsure", "far", "near"]
    assert [item["times"] for item in items] == [5, 1, 1, 1]
    assert items[0]["purpose"] == "teach"
    assert items[2]["why"] == {"entropy": 0.2, "agreement": 0.5, "nearest_example": 0.2}


async def test_what_was_first_asked_after_a_snapshot_is_left_to_the_gate(open_world: OpenWorld) -> None:
    world, desk = await proving(open_world, review={"max_gate": 0})
    ask(world, "is it new?", "new", agreement=0.1)
    assert await desk.look() == []
    cancelled = await world.answered(world.request("cancel_round", round=0))
    assert cancelled.state == "done"
    await world.ended(0)
    assert [item["id"] for item in await desk.look()] == ["new"]


async def test_no_more_wait_than_is_allowed_and_what_nobody_answers_makes_room(open_world: OpenWorld) -> None:
    world, desk = await leading(open_world, review={"max_teach": 3, "keep_days": 0.001})
    world.ask(range(10))
    first = {item["id"] for item in await desk.look()}
    assert len(first) == 3
    world.ask(range(10, 20))
    assert {item["id"] for item in await desk.look()} == first
    await world.passes(90.0)
    assert len(await desk.look()) == 3
    assert len(await desk.records()) == 6


async def test_the_end_of_a_round_ends_what_its_gate_asked(open_world: OpenWorld) -> None:
    world, desk = await proving(open_world, review={"max_teach": 0})
    world.ask([4000, 4001])
    assert len(await desk.look()) == 2
    await world.answered(world.request("refuse_round", round=0, reason="by hand"))
    await world.ended(0)
    assert await desk.look() == []
    assert desk.reviewers.waiting()["nothing"]["gate"] == "no gate waits for labels"


async def test_every_item_is_a_record_of_the_review_topic_once(open_world: OpenWorld) -> None:
    world, desk = await proving(open_world, review={"max_teach": 1})
    world.ask([4000])
    for _ in range(3):
        items = await desk.look()
    (record,) = await desk.records()
    assert record == {
        "schema_version": 1,
        "review": near_key(Query("", "is 4000 even?")),
        "id": "q4000",
        "question": "is 4000 even?",
        "purpose": "gate",
        "candidates": [],
        "times": 1,
        "round": 0,
    }
    assert items[0]["review"] == record["review"]
    assert desk.queue.published == {"gate": 1, "teach": 0}


async def test_a_process_that_lost_the_lease_draws_nothing(open_world: OpenWorld) -> None:
    from semievold.errors import LeaseLost

    world, desk = await leading(open_world)
    world.ask(range(5))
    other = world.process(exclusive=True)
    await other.take_lease()
    with pytest.raises(LeaseLost):
        await desk.queue.look()
    assert desk.waiting() == []


async def test_what_has_a_label_is_not_asked(open_world: OpenWorld) -> None:
    world, desk = await leading(open_world)
    world.ask([4000, 4001])
    other = Example(Query("elsewhere", "Is 4000 even?"), "even")
    world.stores.examples.upsert([(other, False), (example(7), False)])
    assert [item["id"] for item in await desk.look()] == ["q4001"]
