from pathlib import Path
from typing import Any

import pytest

from semievol.errors import TransientError
from semievol.examples.split import is_holdout
from semievol.types import Example, Query
from semievold.errors import TransientStoreError
from semievold.intake.labels import Joined, LabelsIntake
from semievold.streams.protocol import OutgoingRecord
from tests.stream_world import ListIndex, RuleLabeller, World, run_until


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def labelled(*ids: str, answer: str = "even") -> list[dict[str, Any]]:
    return [{"id": i, "question": f"is {i} even?", "answer": answer} for i in ids]


def split(count: int) -> tuple[list[str], list[str]]:
    """(training, holdout) ids of the default split."""
    ids = [f"e{n}" for n in range(count)]
    held = [i for i in ids if is_holdout(i, 0.2, "holdout")]
    return [i for i in ids if i not in held], held


def done(role: LabelsIntake, world: World, records: int) -> Any:
    return lambda: world.committed("labels", "semievol.labels") >= records and role.counters.received


async def run(world: World, index: ListIndex, records: int, **options: Any) -> LabelsIntake:
    role = world.labels_intake(index, **options)
    await run_until(role, done(role, world, records))
    return role


async def test_examples_are_stored_and_only_training_ones_are_indexed(world: World) -> None:
    training, held = split(60)
    assert held
    await world.send(world.topics.labels, labelled(*training, *held))
    index = ListIndex()
    role = await run(world, index, 60)
    assert {example.id for example in world.examples.training()} == index.ids() == set(training)
    assert {example.id for example in world.examples.holdout()} == set(held)
    assert world.examples.unindexed() == []
    assert (role.counters.received, role.counters.added, role.counters.indexed) == (60, 60, len(training))


async def test_a_changed_label_is_updated_in_store_and_index_and_a_repeated_one_is_not(world: World) -> None:
    (a, b, *_), _ = split(60)
    index = ListIndex()
    await world.send(world.topics.labels, labelled(a, b))
    await run(world, index, 2)
    await world.send(world.topics.labels, [*labelled(a, answer="odd"), *labelled(b)])
    role = await run(world, index, 4)
    assert index.examples[a].answer == "odd"
    assert (role.counters.added, role.counters.indexed) == (1, 1)


async def test_a_null_value_retracts_from_store_and_index(world: World) -> None:
    (a, b, *_), (h, *_) = split(60)
    index = ListIndex()
    await world.send(world.topics.labels, labelled(a, b, h))
    await run(world, index, 3)
    await retract(world, a, h, "unknown")
    role = await run(world, index, 6)
    assert index.ids() == {b}
    assert world.examples.holdout() == []
    assert role.counters.retracted == 3


async def retract(world: World, *ids: str) -> None:
    await world.stream.producer().publish(world.topics.labels, [OutgoingRecord(i, None) for i in ids])


async def test_of_several_records_for_one_id_the_last_counts(world: World) -> None:
    (a, b, *_), _ = split(60)
    index = ListIndex()
    await world.send(world.topics.labels, labelled(a, b))
    await retract(world, a, b)
    await world.send(world.topics.labels, labelled(a, answer="odd"))
    await run(world, index, 5)
    assert {i: e.answer for i, e in index.examples.items()} == {a: "odd"}
    assert [e.id for e in world.examples.training()] == [a]


async def test_poison_labels_go_to_the_dead_letters(world: World) -> None:
    (a, *_), _ = split(60)
    await world.send(world.topics.labels, [b"{", *labelled("x", answer="maybe"), *labelled(a)])
    role = await run(world, ListIndex(), 3)
    assert sorted(await world.dead_letters()) == [("answer_not_allowed", "1"), ("malformed_json", "0")]
    assert role.counters.dead_letters == {"answer_not_allowed": 1, "malformed_json": 1}
    assert [e.id for e in world.examples.training()] == [a]


async def test_the_start_reconciles_an_index_that_was_lost_or_holds_too_much(world: World) -> None:
    (a, b, c, *_), (h, *_) = split(60)
    rows = [(Example(Query(i, "?"), "even"), i == h) for i in (a, b, c, h)]
    world.examples.upsert(rows)
    world.examples.mark_indexed([a, b])
    index = ListIndex()
    index.upsert([rows[1][0], rows[3][0], Example(Query("gone", "?"), "even")])
    role = world.labels_intake(index, batch_size=1)
    await role.reconcile()
    assert index.ids() == {a, b, c}
    assert world.examples.unindexed() == []
    before = role.counters.indexed
    await role.reconcile()
    assert role.counters.indexed == before


async def test_an_example_whose_label_is_gone_leaves_the_index_at_the_next_start(world: World) -> None:
    (a, b, *_), _ = split(60)
    rows = [(Example(Query(a, "?"), "even"), False), (Example(Query(b, "??"), "neither"), False)]
    world.examples.upsert(rows)
    index = ListIndex()
    index.upsert([example for example, _ in rows])
    await world.labels_intake(index).reconcile()
    assert index.ids() == {a}


async def test_an_index_that_is_away_is_waited_for_before_the_commit(world: World) -> None:
    (a, *_), _ = split(60)
    await world.send(world.topics.labels, labelled(a))
    failures = [4]

    def away() -> None:
        if failures[0]:
            failures[0] -= 1
            assert world.committed("labels", "semievol.labels") == 0
            raise TransientError("qdrant away")

    index = ListIndex(away)
    role = await run(world, index, 1)
    assert index.ids() == {a}
    assert role.counters.retries == 4
    assert role.counters.degraded is None


async def test_an_example_whose_storing_was_answered_by_an_error_is_indexed_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (a, *_), _ = split(60)
    upsert, failures = world.examples.upsert, [1]

    def stored_but_not_said(rows: Any) -> Any:
        stored = upsert(rows)
        if failures[0]:
            failures[0] -= 1
            raise TransientStoreError("disk i/o error")
        return stored

    monkeypatch.setattr(world.examples, "upsert", stored_but_not_said)
    await world.send(world.topics.labels, labelled(a))
    index = ListIndex()
    await run(world, index, 1)
    assert index.ids() == {a}


async def test_a_label_of_an_answered_query_is_joined_with_its_prediction(world: World) -> None:
    await world.ask("q1", "q22", "q333")
    intake = world.intake(RuleLabeller())
    await run_until(intake, lambda: world.labels.counts().total == 3)
    seen: list[Joined] = []
    await world.send(world.topics.labels, [*labelled("q1", "q22"), *labelled("new")])
    role = world.labels_intake(ListIndex(), on_joined=seen.extend)
    await run_until(role, done(role, world, 3))
    assert sorted((j.id, j.predicted, j.truth, j.adapter, j.correct) for j in seen) == [
        ("q1", "odd", "even", "a1", False),
        ("q22", "even", "even", "a1", True),
    ]
    assert (role.counters.joined_right, role.counters.joined_wrong) == (1, 1)
    await world.send(world.topics.labels, labelled("q1"))
    again = world.labels_intake(ListIndex(), on_joined=seen.extend)
    await run_until(again, done(again, world, 4))
    assert len(seen) == 2
    assert {row.id for row in world.labels.pool()} == {"q333"}


async def test_a_prediction_that_is_another_of_the_true_answers_was_right(world: World) -> None:
    await world.ask("q1", "q22")
    await run_until(world.intake(RuleLabeller()), lambda: world.labels.counts().total == 2)
    several = [{**row, "answers": ["odd"]} for row in labelled("q1", "q22")]
    role = world.labels_intake(ListIndex())
    await world.send(world.topics.labels, several)
    await run_until(role, done(role, world, 2))
    assert (role.counters.joined_right, role.counters.joined_wrong) == (2, 0)
