import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from semievol.types import Example, Message, PseudoLabel, Query
from semievold.store.pseudo_labels import LabelCounts, NewLabel, PseudoLabelStore, query_hash
from semievold.store.tables import pseudo_labels
from tests.stream_world import World, pseudo_label

NewWorld = Callable[..., World]


def label(identity: str, **fields: object) -> PseudoLabel:
    return replace(pseudo_label(Query(identity, f"is {identity} even?")), **fields)  # type: ignore[arg-type]


def new(item: PseudoLabel, partition: int, offset: int) -> NewLabel:
    return NewLabel(item, query_hash(item.query), "t", partition, offset)


def add(store: PseudoLabelStore, *labels: PseudoLabel) -> set[str]:
    return store.add([new(item, 0, n) for n, item in enumerate(labels)])


def set_times(world: World, at: dict[str, float]) -> None:
    with world.database.write() as connection:
        for query_id, created_at in at.items():
            row = pseudo_labels.c.query_id == query_id
            connection.execute(sa.update(pseudo_labels).where(row).values(created_at=created_at))


def test_a_label_comes_back_with_all_that_explains_it(new_world: NewWorld) -> None:
    store = new_world().labels
    query = Query("é", "?", ("a", "b"), (Message("user", "?"),), "cat", {"x": [1, None]})
    given = pseudo_label(query)
    before = time.time()
    assert store.add([new(given, 3, 2**40)]) == {"é"}
    stored = store.get("é")
    assert stored is not None
    assert stored.label == given
    assert (stored.topic, stored.partition, stored.offset) == ("t", 3, 2**40)
    assert (stored.revision, stored.published, stored.content_hash) == (1, False, query_hash(query))
    assert before <= stored.created_at == stored.updated_at <= time.time()
    assert store.load(["é"]) == [given]


def test_a_label_that_did_not_parse_survives_the_round_trip(new_world: NewWorld) -> None:
    store = new_world().labels
    given = pseudo_label(Query("q", "?"), adapter=None, answer=None)
    add(store, given, label("nan", entropy=float("nan")))
    assert store.load(["q"]) == [given]
    assert store.load(["nan"])[0].entropy == float("inf")


def test_the_first_label_of_a_query_wins(new_world: NewWorld) -> None:
    store = new_world().labels
    assert add(store, label("a"), label("b")) == {"a", "b"}
    assert add(store, label("a", answer="odd"), label("c")) == {"c"}
    assert store.load(["a"])[0].answer == "even"


def test_of_several_in_one_call_the_first_wins(new_world: NewWorld) -> None:
    store = new_world().labels
    assert add(store, label("a"), label("a", answer="odd")) == {"a"}
    assert store.load(["a"])[0].answer == "even"


def test_each_query_is_stored_by_exactly_one_of_many_threads(new_world: NewWorld) -> None:
    store = new_world().labels
    everything = [label(f"q{n}") for n in range(100)]
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: add(store, *everything), range(8)))
    assert sorted(query_id for some in added for query_id in some) == sorted(item.query.id for item in everything)


def test_the_hash_tells_contents_apart_and_nothing_else(new_world: NewWorld) -> None:
    query = Query("a", "x")
    assert query_hash(query) == query_hash(Query("other", "x", category="c", metadata={"m": 1}))
    turns = (Message("user", "x"),)
    others = [Query("a", "y"), Query("a", "x", ("1", "2")), Query("a", "x", ("1", "3")), Query("a", "x", None, turns)]
    assert len({query_hash(q) for q in [query, *others]}) == 5
    store = new_world().labels
    add(store, pseudo_label(query))
    assert store.known(["a", "b"]) == {"a": query_hash(query)}


def test_publishing_is_remembered(new_world: NewWorld) -> None:
    store = new_world().labels
    many = [label(f"q{n:04}") for n in range(1200)]
    add(store, *many)
    assert [item.query.id for item in store.unpublished(2)] == ["q0000", "q0001"]
    assert store.unpublished(2, older_than_s=60.0) == []
    store.mark_published(item.query.id for item in many[1:])
    assert store.unpublished(10) == many[:1]
    assert store.counts() == LabelCounts(total=1200, unparseable=0, unpublished=1)
    assert store.add([new(label("next"), 0, 1)], published=["q0000"]) == {"next"}
    assert [item.query.id for item in store.unpublished(10)] == ["next"]


def test_the_pool_leaves_out_queries_whose_truth_is_known(new_world: NewWorld) -> None:
    world = new_world()
    add(world.labels, label("a"), label("b"), label("c"))
    world.examples.upsert([(Example(Query("a", "?"), "odd"), False), (Example(Query("b", "?"), "odd"), True)])
    assert [row.id for row in world.labels.pool()] == ["c"]
    world.examples.retract(["a"])
    assert {row.id for row in world.labels.pool()} == {"a", "c"}
    assert set(world.labels.rows(["a", "b", "unknown"])) == {"a", "b"}


def test_the_pool_is_light_newest_first_and_bounded(new_world: NewWorld) -> None:
    world = new_world()
    add(world.labels, label("a"), label("b"), label("c"))
    set_times(world, {"a": 1.0, "b": 3.0, "c": 2.0})
    assert world.labels.pool(limit=2)[0] == ("b", "even", 0.25, 0.75, "a1", 3.0, 1)
    assert [row.id for row in world.labels.pool(limit=2)] == ["b", "c"]


def test_load_keeps_the_asked_order_and_leaves_out_the_unknown(new_world: NewWorld) -> None:
    store = new_world().labels
    many = [label(f"q{n}") for n in range(1100)]
    add(store, *many)
    ids = [item.query.id for item in reversed(many)]
    assert [item.query.id for item in store.load([*ids, "unknown"])] == ids


def test_a_replaced_label_moves_to_the_history(new_world: NewWorld) -> None:
    store = new_world().labels
    add(store, label("a"), label("b"))
    store.mark_published(["a"])
    newer = label("a", answer="odd", adapter="a2", entropy=0.1)
    assert store.replace([newer, label("unknown")]) == 1
    stored = store.get("a")
    assert stored is not None
    assert (stored.label, stored.revision, stored.published) == (newer, 2, True)
    assert stored.updated_at > stored.created_at
    (old,) = store.history("a")
    assert (old["revision"], old["answer"], old["adapter"]) == (1, "even", "a1")
    assert old["created_at"] == stored.created_at
    assert store.history("b") == []


def test_replacing_again_after_a_crash_changes_nothing(new_world: NewWorld) -> None:
    store = new_world().labels
    add(store, *(label(f"q{n}") for n in range(700)))
    newer = [label(f"q{n}", adapter="a2") for n in range(700)]
    assert store.replace(newer) == 700
    assert store.replace(newer) == 0
    assert len(store.history("q7")) == 1
    assert store.replace([label("q7", adapter="a3")]) == 1
    assert [(old["revision"], old["adapter"]) for old in store.history("q7")] == [(1, "a1"), (2, "a2")]


def test_the_window_looks_at_the_newest_labels_only(new_world: NewWorld) -> None:
    world = new_world()
    assert world.labels.window(10).mean_agreement is None
    unparsed = label("c", answer=None, entropy=float("inf"), agreement=0.0, adapter="a2")
    add(world.labels, label("a", agreement=0.1, entropy=9.0), label("b", agreement=1.0), unparsed)
    set_times(world, {"a": 1.0, "b": 2.0, "c": 3.0})
    window = world.labels.window(2)
    assert (window.count, window.unparseable, window.mean_entropy, window.mean_agreement) == (2, 1, 0.25, 0.5)
    assert world.labels.window(5, adapter="a2").count == 1
    assert world.labels.counts() == LabelCounts(3, 1, 3)
    assert world.labels.count_since(1.5) == 2


def test_the_offsets_of_a_snapshot_are_the_highest_stored(new_world: NewWorld) -> None:
    store = new_world().labels
    store.add([new(label("a"), 0, 5), new(label("b"), 1, 2), new(label("c"), 0, 7)])
    store.add([NewLabel(label("d"), "hash")])
    assert store.offsets() == {"t": {"0": 7, "1": 2}}


def test_due_predictions_are_counted_along_a_small_index(tmp_path: Path) -> None:
    world = World(tmp_path)
    c = pseudo_labels.c
    statement = sa.select(sa.func.count()).where(c.workload == "w", c.published.is_(False))
    text = str(statement.compile(world.database._engine, compile_kwargs={"literal_binds": True}))
    with world.database.read() as connection:
        plan = connection.exec_driver_sql(f"explain query plan {text}").all()
    assert "USING INDEX ix_pseudo_labels_unpublished" in str(plan)


def test_workloads_do_not_see_each_other(new_world: NewWorld) -> None:
    one, other = new_world(workload="one").labels, new_world(workload="other").labels
    add(one, label("a"))
    assert other.known(["a"]) == {}
    assert add(other, label("a", answer="odd")) == {"a"}
    assert one.load(["a"])[0].answer == "even"


def test_what_a_stream_has_passed_is_published_and_the_rest_is_found_by_its_record(new_world: NewWorld) -> None:
    store = new_world().labels
    labels = [label(name) for name in ("a", "b", "c")]
    store.add([new(labels[0], 0, 4), new(labels[1], 0, 5), new(labels[2], 1, 0)])
    store.add([NewLabel(label("d"), "hash", "another topic", 0, 0)])
    assert [each.query.id for each in store.unpublished(9, but_of="t")] == ["d"]
    store.mark_published_below("t", {0: 5})
    assert store.unpublished_places(["a", "b", "c", "e"]) == {("t", 0, 5): labels[1], ("t", 1, 0): labels[2]}
