"""Labels on the training side that arrive after the snapshot count where that is wanted, if nobody was taught them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from semievol.types import Example, Query
from semievold.round_states import RoundState as S
from semievold.rounds.fresh import FreshLabels
from semievold.store.examples import FEEDBACK
from semievold.store.tables import adapters, round_examples, round_members
from tests.control_world import ControlWorld, OpenWorld, example

TIES = [1000 + 10 * ten + digit for ten in range(5) for digit in range(4)]
FIVE_WINS = [2004, 2005, 2006, 2007, 2008]


async def proving(open_world: OpenWorld, **gate: Any) -> ControlWorld:
    """A world with a round that has 5 wins and no loss and waits for more."""
    world = open_world(gate={"patience_s": 30.0, **gate}, trigger={"new_pseudo_labels": None, "retry_failed_s": 999.0})
    world.teach(held_out=[*TIES, *FIVE_WINS])
    world.here.start()
    await world.reaches(0, S.PROVING)
    return world


async def test_labels_that_nobody_was_taught_prove_the_candidate(open_world: OpenWorld) -> None:
    world = await proving(open_world, late_labels="all")
    world.teach(training=[3004, 3005], held_out=())
    settled = await world.ended(0)
    assert settled.state is S.SETTLED
    assert settled.evaluation is not None
    assert (settled.evaluation["count"], settled.evaluation["wins"]) == (27, 7)


async def test_unless_it_is_wanted_only_what_is_held_out_counts(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    world.teach(training=[3004, 3005], held_out=())
    ended = await world.ended(0)
    assert (ended.state, (ended.evaluation or {})["count"]) == (S.INCONCLUSIVE, 25)


async def evolving(open_world: OpenWorld) -> tuple[ControlWorld, FreshLabels]:
    """A world whose second round has taken its snapshot: examples 0 to 9, queries 40 to 59."""
    world = open_world()
    world.teach()
    world.trainer.right = 7
    await world.here.lead()
    await world.advance(await world.plan(), S.SETTLED)
    world.teach(training=[20, 21], held_out=())
    world.ask(range(40, 60))
    await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    return world, FreshLabels(world.stores, world.place)


def found(world: ControlWorld, fresh: FreshLabels) -> set[str]:
    return {example.id for example in fresh.of(world.round(1))}


async def test_what_was_asked_in_training_proves_nothing_under_whichever_id(open_world: OpenWorld) -> None:
    world, fresh = await evolving(open_world)
    assert found(world, fresh) == set()
    truths = [Example(Query(f"q{number}", f"is {number} even?"), "odd") for number in (45, 46)]  # were pseudo-labels
    copies = [Example(Query(f"copy{number}", f"Is {number} even? "), "odd") for number in (3, 20, 47)]
    new = [example(number) for number in (70, 71)]
    world.stores.examples.upsert([(each, False) for each in [*truths, *copies, *new]])
    assert found(world, fresh) == {"e70", "e71"}
    assert found(world, FreshLabels(world.stores, world.place)) == {"e70", "e71"}


async def test_what_clients_said_and_what_was_corrected_or_taken_back_is_no_new_label(open_world: OpenWorld) -> None:
    world, fresh = await evolving(open_world)
    said = [replace(example(70), source=FEEDBACK), replace(example(3), answer="even"), example(71)]
    world.stores.examples.upsert([(each, False) for each in said])
    world.stores.examples.retract(["e71"])
    assert found(world, fresh) == set()


def before_it_was_recorded(world: ControlWorld) -> None:
    """The rounds as a schema before 0011 has them."""
    with world.database.write() as connection:
        connection.execute(sa.delete(round_examples))


@pytest.mark.parametrize("lost", ["r0000", "r0001"])
async def test_where_it_is_not_known_any_more_what_was_trained_on_nothing_is_new(
    open_world: OpenWorld, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    world, _ = await evolving(open_world)
    world.teach(training=[70], held_out=())
    manifest = world.place.rounds / lost / "snapshot" / "manifest.json"
    before_it_was_recorded(world)
    manifest.rename(manifest.with_name("away"))
    fresh = FreshLabels(world.stores, world.place)
    assert found(world, fresh) == found(world, fresh) == set()
    assert len([record for record in caplog.records if "late labels do not count" in record.message]) == 1
    manifest.with_name("away").rename(manifest)
    assert found(world, fresh) == {"e70"}


async def test_the_state_says_what_was_trained_on_when_the_files_are_gone(open_world: OpenWorld) -> None:
    world, _ = await evolving(open_world)
    for lost in ("r0000", "r0001"):
        shutil.rmtree(world.place.rounds / lost)
    world.teach(training=[70], held_out=())
    taught = Example(Query("copy", "Is 47 even? "), "odd")  # as the pseudo-label of q47
    world.stores.examples.upsert([(taught, False)])
    assert found(world, FreshLabels(world.stores, world.place)) == {"e70"}


async def test_what_a_version_was_taught_that_the_incumbent_went_on_from_proves_nothing(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    await world.here.lead()
    older = await world.version()
    settled = await world.advance(await world.plan(), S.SETTLED)
    world.ask(range(40, 60))
    await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    world.ask([62])
    with world.database.write() as connection:
        of_older = {"workload": "w", "number": 0}
        connection.execute(sa.insert(round_examples).values(**of_older, example_id="e1", role="training"))
        connection.execute(sa.insert(round_members).values(**of_older, query_id="q62", selected=True))
        connection.execute(sa.update(adapters).where(adapters.c.name == settled.adapter).values(parent=older))
    world.teach(training=[62, 70], held_out=())
    assert {each.id for each in FreshLabels(world.stores, world.place).of(world.round(2))} == {"e70"}


async def test_the_manifest_says_it_of_rounds_that_were_not_recorded(open_world: OpenWorld) -> None:
    world, _ = await evolving(open_world)
    before_it_was_recorded(world)
    world.teach(training=[70, 47], held_out=())
    assert found(world, FreshLabels(world.stores, world.place)) == {"e70"}
