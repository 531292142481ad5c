from collections.abc import Callable

import pytest

from semievol.examples.split import HoldoutRule
from semievol.types import Example, Message, Query
from semievold.store.examples import ExampleCounts
from tests.stream_world import World

NewWorld = Callable[..., World]


def example(identity: str, answer: str = "even", **fields: object) -> Example:
    return Example(Query(identity, f"is {identity} even?", **fields), answer)  # type: ignore[arg-type]


def ids(examples: list[Example]) -> list[str]:
    return [item.id for item in examples]


def test_an_example_comes_back_as_it_was(new_world: NewWorld) -> None:
    query = Query("é", "?", ("a", "b"), (Message("user", "?"),), "cat", {"x": [1, None]})
    world = new_world()
    world.examples.upsert([(Example(query, "even", "crm"), False)])
    assert world.examples.training() == [Example(query, "even", "crm")]


def test_other_true_answers_come_back_and_count_as_a_change(new_world: NewWorld) -> None:
    store = new_world().examples
    several = Example(Query("a", "is a even?"), "even", None, ("2n", "paired"))
    assert store.upsert([(example("a"), False)])[0].change == "new"
    assert store.upsert([(several, False)])[0].change == "changed"
    assert store.upsert([(several, False)])[0].change == "same"
    assert store.training() == [several]


def test_holdout_and_training_are_apart(new_world: NewWorld) -> None:
    store = new_world().examples
    store.upsert([(example("b"), False), (example("a"), False), (example("h"), True)])
    assert ids(store.training()) == ["a", "b"]
    assert ids(store.holdout()) == ["h"]
    assert ids(store.unindexed()) == ["a", "b"]
    assert store.counts() == ExampleCounts(
        training=2, holdout=1, retracted=0, unindexed=2, training_questions=2, holdout_questions=1, calibration=0
    )


def test_an_example_never_changes_sides(new_world: NewWorld) -> None:
    store = new_world().examples
    store.upsert([(example("h"), True), (example("t"), False)])
    stored = store.upsert([(example("h", "odd"), False), (example("t", "odd"), True)])
    assert [(item.example.id, item.holdout) for item in stored] == [("h", True), ("t", False)]
    store.retract(["h"])
    assert store.upsert([(example("h"), False)])[0].holdout


@pytest.mark.parametrize("count", [1, 1200])
def test_only_changed_examples_are_to_be_indexed_again(new_world: NewWorld, count: int) -> None:
    store = new_world().examples
    rows = [(example(f"e{n}"), False) for n in range(count)]
    assert {item.change for item in store.upsert(rows)} == {"new"}
    store.mark_indexed(f"e{n}" for n in range(count))
    assert {(item.change, item.indexed) for item in store.upsert(rows)} == {("same", True)}
    assert store.unindexed() == []
    changed = store.upsert([(example("e0", "odd"), False)])
    assert [(item.change, item.indexed) for item in changed] == [("changed", False)]
    assert ids(store.unindexed()) == ["e0"]


def test_of_several_with_one_id_the_last_wins(new_world: NewWorld) -> None:
    store = new_world().examples
    stored = store.upsert([(example("a"), False), (example("b"), False), (example("a", "odd"), False)])
    assert [(item.example.id, item.example.answer) for item in stored] == [("a", "odd"), ("b", "even")]


def test_a_retracted_example_is_gone_until_it_is_labelled_again(new_world: NewWorld) -> None:
    store = new_world().examples
    store.upsert([(example("a"), False)])
    store.mark_indexed(["a"])
    store.retract(["a", "unknown"])
    assert (store.training(), store.get("a")) == ([], None)
    assert store.counts() == ExampleCounts(0, 0, retracted=1, unindexed=0, training_questions=0, holdout_questions=0)
    assert [(item.change, item.indexed) for item in store.upsert([(example("a"), False)])] == [("changed", False)]
    assert ids(store.unindexed()) == ["a"]


def test_of_many_ids_it_is_known_which_are_there(new_world: NewWorld) -> None:
    store = new_world().examples
    store.upsert([(example(f"e{n}"), n % 2 == 0) for n in range(1200)])
    store.retract(["e3"])
    assert store.present([f"e{n}" for n in range(1300)]) == {f"e{n}" for n in range(1200)} - {"e3"}
    assert store.present([]) == set()


def test_workloads_do_not_see_each_other(new_world: NewWorld) -> None:
    one, other = new_world(workload="one").examples, new_world(workload="other").examples
    one.upsert([(example("a"), False)])
    assert other.training() == []
    other.retract(["a"])
    assert one.get("a") is not None


def test_the_last_change_is_remembered(new_world: NewWorld) -> None:
    store = new_world().examples
    assert store.last_change() is None
    store.upsert([(example("a"), False)])
    first = store.last_change()
    store.retract(["a"])
    assert first is not None
    assert (store.last_change() or 0) >= first


RULE = HoldoutRule(0.2, "holdout", least=20, training_first=16)


def test_a_hundred_labels_give_the_gate_its_twenty_whatever_batches_they_come_in(new_world: NewWorld) -> None:
    for size in (7, 100):
        store = new_world(workload=f"w{size}").examples
        given = [example(f"e{n}") for n in range(100)]
        for start in range(0, 100, size):
            store.keep(given[start : start + size], RULE)
        before = ids(store.holdout())
        assert len(before) >= 20
        assert store.counts().holdout_questions == len(before)
        store.keep(given, RULE)
        assert ids(store.holdout()) == before


def test_a_question_under_many_ids_lies_on_one_side_and_counts_once(new_world: NewWorld) -> None:
    store = new_world().examples
    for copy in range(8):
        store.keep([Example(Query(f"{n}-{copy}", f"Question {n}"), "even") for n in range(40)], RULE)
    sides: dict[str, set[bool]] = {}
    for side, some in ((True, store.holdout()), (False, store.training())):
        for each in some:
            sides.setdefault(each.query.question, set()).add(side)
    assert all(len(found) == 1 for found in sides.values())
    counts = store.counts()
    assert (counts.training + counts.holdout, counts.training_questions + counts.holdout_questions) == (320, 40)
    assert counts.holdout_questions == 20


def test_an_example_stays_where_an_older_version_put_it_and_its_copies_join_it(new_world: NewWorld) -> None:
    store = new_world().examples
    store.upsert([(example("t"), False), (example("h"), True)])
    copies = [Example(Query(f"{of}2", f"is {of} even?"), "even") for of in "th"]
    stored = store.keep([*copies, example("t"), example("h")], HoldoutRule(0.5, "", 2, 0))
    assert {item.example.id: item.holdout for item in stored} == {"t2": False, "h2": True, "t": False, "h": True}
