"""The collapse breaker: what it stops, what it lets through, what it says, and what a person can do then."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from semievold.api import operations
from semievold.round_states import RoundState as S
from semievold.rounds.planning.breaker import effective_number
from semievold.store.rounds import Round
from tests.control_roles import Roles
from tests.control_world import ControlWorld, OpenWorld, Weights
from tests.unit.semievold.monitoring.test_state_metrics import shown

EVEN = range(40, 240, 2)
MIXED = range(40, 140)


async def serving(world: ControlWorld, right: int = 9) -> ControlWorld:
    """A warm adapter serves."""
    world.teach()
    world.weights[None] = Weights(0, 0.5)
    world.trainer.right = right
    await world.here.lead()
    await world.advance(await world.plan(), S.SETTLED)
    return world


async def stopped(world: ControlWorld) -> Round:
    """An evolve round after its first step, which the breaker did not let pass."""
    round_ = await world.here.engine.advance(await world.plan("evolve"))
    assert round_.state is S.PLANNED, f"{round_.state}: {world.story()}"
    return round_


def reason(world: ControlWorld) -> str:
    frozen = world.stores.freezes.get()
    assert frozen is not None
    return frozen.reason


@pytest.mark.parametrize(
    ("counts", "number"), [({}, 0.0), ({"a": 7}, 1.0), ({"a": 5, "b": 5}, 2.0), ({"a": 96, "b": 4}, 1.183)]
)
def test_the_effective_number_of_answers_is_the_exponential_of_their_entropy(
    counts: dict[str, int], number: float
) -> None:
    assert effective_number(Counter(counts)) == pytest.approx(number, abs=1e-3)


async def test_one_answer_to_everything_stops_a_round_before_it_trains_and_says_what_can_be_done(
    open_world: OpenWorld,
) -> None:
    world = await serving(open_world())
    begun = world.trainer.begun
    world.ask(EVEN)
    world.trainer.right = 10
    round_ = await stopped(world)
    assert reason(world) == (
        "round 1 was stopped before its training: the 100 pseudo-labels that it selected have nearly one answer (100% "
        "are 'even'): they spread like 1.0 equally frequent answers, the labelled examples like 2.0, and 1.1 are asked "
        "for (breaker.min_answers). `semievol adapters rollback base` serves the last clean version again. `semievol "
        "rounds cancel 1` gives the round up, `semievol thaw` alone trains it all the same"
    )
    assert world.trainer.begun == begun
    assert not world.place.training(round_).snapshot.exists()
    assert round_.breaker is not None
    assert round_.breaker["breaches"] == ["answers"]
    assert [event["to_state"] for event in world.stores.rounds.events(1)] == ["planned", "planned"]
    assert world.round(1).attempts == 0


async def test_nobody_is_told_to_go_back_where_the_base_model_serves(open_world: OpenWorld) -> None:
    world = open_world(trigger={"min_new": 1})
    world.teach()
    world.weights[None] = Weights(9, 0.2)
    await world.here.lead()
    world.ask(EVEN)
    await stopped(world)
    assert "(breaker.min_answers). There is no earlier version to serve. `semievol rounds cancel 0`" in reason(world)
    assert "rollback" not in reason(world)


async def test_answers_as_varied_as_the_examples_pass_and_what_was_measured_is_kept(open_world: OpenWorld) -> None:
    world = await serving(open_world())
    world.ask(MIXED)
    taken = await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    assert world.stores.freezes.get() is None
    assert taken.breaker is not None
    assert taken.breaker["breaches"] == []
    figures = {name: each["figure"] for name, each in taken.breaker["measures"].items()}
    assert figures == {
        "answers": pytest.approx(0.96, abs=0.01),
        "real_labels": pytest.approx(10 / 110),
        "depth": 1.0,
        "anchor_disagreement": None,  # what labels is the anchor
        "duplicates": 0.0,
    }


async def test_few_pseudo_labels_show_no_collapse(open_world: OpenWorld) -> None:
    world = await serving(open_world())
    world.ask(range(40, 138, 2))  # 49
    assert (await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)).state is S.SNAPSHOTTED


@pytest.mark.parametrize("without", ["min_answers", "min_real_share", "max_depth"])
async def test_a_bound_that_is_none_stops_nothing(open_world: OpenWorld, without: str) -> None:
    tight: dict[str, Any] = {"min_answers": 0.1, "min_real_share": 0.5, "max_depth": 1}
    world = await serving(open_world(breaker={**dict.fromkeys(tight), without: None}))
    world.ask(EVEN)
    assert (await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)).state is S.SNAPSHOTTED


async def test_a_round_of_hardly_any_example_is_stopped(open_world: OpenWorld) -> None:
    world = await serving(open_world(breaker={"min_real_share": 0.1}))
    world.ask(MIXED)
    await stopped(world)
    said = reason(world)
    assert "of its 110 training rows only 10 are labelled examples (9.09%, and 10.00% are asked for" in said
    serves = world.stores.alias.get().adapter
    assert f"{serves} serves on and is not in doubt" in said


async def test_versions_that_learn_from_each_other_are_counted_from_the_last_that_a_person_approved(
    open_world: OpenWorld,
) -> None:
    world = await serving(open_world(breaker={"max_depth": 1}), right=5)
    world.ask(MIXED)
    world.trainer.right = 8
    await world.advance(await world.plan("evolve"), S.SETTLED)
    world.trainer.right = 10
    await stopped(world)
    assert "number 2 in a row of versions that learned from each other's labels, counted from the anchor w-r0000" in (
        reason(world)
    )
    world.stores.rounds.approve(1)  # somebody has looked at what serves
    world.stores.freezes.thaw()
    await world.here.engine.cancel(world.round(2), "test")
    taken = await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    assert taken.breaker is not None
    assert taken.breaker["measures"]["depth"]["figure"] == 1.0


async def test_a_version_that_has_left_what_the_anchor_knew_labels_nothing_that_is_trained_on(
    open_world: OpenWorld,
) -> None:
    """Better on the whole than the warm version, and wrong where that was right."""
    world = await serving(open_world(breaker={"max_anchor_disagreement": 0.3}, gate={"min_holdout": 5}), right=3)
    anchor = world.stores.alias.get().adapter
    world.ask(MIXED)
    world.trainer.right, world.trainer.forgotten = 10, frozenset({0})
    round_ = await world.advance(await world.plan("evolve"), S.SETTLED)
    await stopped(world)
    assert (
        f"of 9 held-out questions that the anchor {anchor} answers rightly, {round_.adapter}, which labelled the pool, "
        "answers 3 otherwise (breaker.max_anchor_disagreement is 0.3)" in reason(world)
    )


async def test_few_held_out_answers_say_nothing_against_a_version(open_world: OpenWorld) -> None:
    world = await serving(open_world(breaker={"max_anchor_disagreement": 0.3}), right=3)  # gate.min_holdout: 20
    world.ask(MIXED)
    world.trainer.right, world.trainer.forgotten = 10, frozenset({0})
    await world.advance(await world.plan("evolve"), S.SETTLED)
    taken = await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    assert (taken.breaker or {})["measures"]["anchor_disagreement"]["figure"] is None


async def test_a_pool_of_copies_names_the_query_that_floods_it(open_world: OpenWorld) -> None:
    world = await serving(open_world(breaker={"max_duplicates": 0.5}))
    world.ask(MIXED)
    world.flood("is 40 even?", 150)
    await stopped(world)
    said = reason(world)
    assert "150 of the 250 queries in its pool ask what another one there asks (60%" in said
    assert "; 150 times it is 'is 40 even?'" in said


async def test_a_thaw_alone_trains_the_round_all_the_same(open_world: OpenWorld) -> None:
    world = open_world(trigger={"new_pseudo_labels": 50})
    await serving(world)
    world.ask(EVEN)
    world.trainer.right = 10
    world.here.start()
    await world.until(lambda: world.here.control.waits_for == "frozen")
    await world.passes(30)
    assert (world.round(1).state, world.round(1).attempts) == (S.PLANNED, 0)
    seen = operations.status(world.config, world.stores, world.place)
    assert seen["breaker"]["tripped"] == ["answers"]
    assert seen["breaker"]["answers"] == pytest.approx(0.0)
    roles = Roles(world)
    await roles.state_watch.look()
    metrics = shown(roles.state_metrics)
    assert (metrics["breaker_tripped{answers}"], metrics["breaker_tripped{depth}"]) == (1, 0)
    assert (metrics["breaker_figure{depth}"], metrics["breaker_bound{answers}"]) == (1, 0.1)
    world.stores.freezes.thaw()
    await world.ended(1)
    assert "training" in world.path(1)
    assert world.stores.freezes.get() is None
    assert operations.status(world.config, world.stores, world.place)["breaker"]["tripped"] == []


async def test_what_a_person_has_not_read_of_stops_the_round_again(open_world: OpenWorld) -> None:
    world = await serving(open_world(breaker={"max_duplicates": 0.5}))
    world.ask(EVEN)
    round_ = await stopped(world)
    world.stores.freezes.thaw()
    world.flood("is 40 even?", 150)
    again = await world.here.engine.advance(round_)
    assert again.state is S.PLANNED
    assert again.breaker is not None
    assert again.breaker["breaches"] == ["answers", "duplicates"]
    world.stores.freezes.thaw()
    assert (await world.here.engine.advance(again)).state is S.SNAPSHOTTED


async def test_another_leader_finds_it_stopped(open_world: OpenWorld) -> None:
    world = await serving(open_world())
    world.ask(EVEN)
    await stopped(world)
    other = world.process()
    other.start()
    await world.until(lambda: other.control.waits_for == "frozen")
    await world.passes(20)
    assert world.round(1).state is S.PLANNED
    assert world.trainer.begun == 1


async def test_the_last_clean_version_serves_again_while_rounds_are_frozen(open_world: OpenWorld) -> None:
    world = open_world(trigger={"new_pseudo_labels": None}, breaker={"min_answers": 0.5})
    await serving(world, right=4)
    first = str(world.stores.alias.get().adapter)
    world.ask(MIXED)
    for number, right in ((1, 7), (2, 10)):
        world.trainer.right = right
        await world.advance(await world.plan("evolve"), S.SETTLED)
        assert world.round(number).state is S.SETTLED
    third = world.stores.alias.get().adapter
    world.ask(range(2000, 2800, 2))
    world.trainer.right = 10
    await stopped(world)
    second = str(world.round(1).adapter)
    assert f"`semievol adapters rollback {second}` serves the last clean version again" in reason(world)
    world.here.start()
    done = await world.answered(world.request("rollback", adapter=first))
    assert (done.state, done.result) == ("done", {"from": third, "to": first})
    for name, why in ((first, "serves already"), ("w-r0009-00000000", "is no version that served before")):
        refused = await world.answered(world.request("rollback", adapter=name))
        assert refused.state == "refused"
        assert why in (refused.result or {})["error"]
    to_base = await world.answered(world.request("rollback", adapter="base"))
    assert (to_base.state, to_base.result) == ("done", {"from": first, "to": None})
