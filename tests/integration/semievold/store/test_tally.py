"""What is kept beside the pseudo-labels says what a count of all of them would, whatever is done to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from semievol.types import Query
from semievold.store import retention
from semievold.store.database import _MIGRATION, Database
from semievold.store.pseudo_labels import NewLabel, PseudoLabelStore, query_hash
from semievold.store.retention import Place, RetentionStore
from semievold.store.tables import label_counts, label_positions, pseudo_label_history, pseudo_labels
from tests.stream_world import World, pseudo_label

ANSWERS = st.sampled_from(["even", "odd", None])
LABELS = st.lists(st.tuples(st.integers(0, 12), ANSWERS, st.integers(0, 2), st.integers(0, 50)), max_size=8)
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["add", "replace"]), LABELS) | st.tuples(st.just("delete"), st.integers(1, 8)), max_size=8
)


def new(number: int, answer: str | None, partition: int, offset: int) -> NewLabel:
    query = Query(f"q{number}", f"is {number} even?")
    return NewLabel(pseudo_label(query, answer=answer), query_hash(query), "t", partition, offset)


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database for all cases: a migration takes longer than a case."""
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('state') / 'state.db'}", "w")
    database.migrate()
    yield database
    database.close()


@settings(max_examples=60)
@given(actions=ACTIONS)
def test_counts_and_positions_are_those_of_the_rows(
    one_file: Database, actions: list[tuple[str, list[tuple[int, str | None, int, int]] | int]]
) -> None:
    with one_file.write() as connection:
        for table in (pseudo_labels, pseudo_label_history, label_counts, label_positions):
            connection.execute(sa.delete(table))
    labels, store = PseudoLabelStore(one_file, "w"), RetentionStore(one_file, "w")
    positions: dict[str, int] = {}
    deleted = 0
    for action, value in actions:
        if action == "delete" and isinstance(value, int):
            before = store.oldest_kept(value)
            deleted += store.sweep(Place(), before).deleted
        elif action == "add" and isinstance(value, list):
            some = [new(*each) for each in value]
            added = labels.add(some)
            labels.mark_published(added)
            for each in {item.label.query.id: item for item in reversed(some)}.values():
                if each.label.query.id in added:
                    place = str(each.partition)
                    positions[place] = max(positions.get(place, 0), each.offset or 0)
        elif isinstance(value, list):
            labels.replace([pseudo_label(Query(f"q{number}", "?"), answer=answer) for number, answer, *_ in value])
    with one_file.read() as connection:
        rows = connection.execute(sa.select(pseudo_labels.c.answer)).scalars().all()
    assert labels.counts() == (len(rows), rows.count(None), 0)
    assert labels.labelled() == len(rows) + deleted
    assert labels.offsets().get("t", {}) == positions


def test_workloads_are_counted_apart_and_on_every_database(new_world: Callable[..., World]) -> None:
    world = new_world()
    other = PseudoLabelStore(world.database, "another")
    for store in (world.labels, other):
        store.add([new(1, "even", 0, 5), new(2, None, 1, 2)])
        store.add([new(2, "even", 1, 9), new(3, "odd", 0, 3)])
    other.replace([replace(other.load(["q2"])[0], answer="odd")])
    assert (world.labels.counts(), other.counts()) == ((3, 1, 3), (3, 0, 3))
    assert world.labels.offsets() == other.offsets() == {"t": {"0": 5, "1": 2}}


@pytest.fixture
def at_0019(empty_url: str) -> Iterator[tuple[Database, Callable[[str, str], None]]]:
    """A database at the schema before the counts, and what moves it to another."""
    database, config = Database(empty_url), Config()
    config.set_main_option("script_location", "semievold.store:migrations")
    config.set_main_option("path_separator", "os")

    def move(way: str, revision: str) -> None:
        with database._writing(_MIGRATION) as connection:
            config.attributes["connection"] = connection
            getattr(command, way)(config, revision)

    move("upgrade", "0019")
    yield database, move
    database.close()


def test_what_is_there_is_counted_when_the_schema_gets_the_counts(
    at_0019: tuple[Database, Callable[[str, str], None]],
) -> None:
    database, move = at_0019
    rows = [
        (f"q{n}", None if n == 3 else "even", "t" if n else None, n % 2 if n else None, n or None) for n in range(6)
    ]
    columns = ("query_id", "answer", "topic", "partition", "offset")
    fixed = dict.fromkeys(("entropy", "agreement", "confidence", "created_at", "updated_at"), 1.0)
    flags = {"justified": False, "published": True, "revision": 1, "unclean": False, "content_hash": "h"}
    values = {"workload": "w", "query": {}, "neighbours": [], "candidates": [], **fixed, **flags}
    with database._writing(_MIGRATION) as connection:
        connection.execute(
            sa.insert(pseudo_labels), [{**values, **dict(zip(columns, row, strict=True))} for row in rows]
        )
        connection.execute(sa.text("insert into forgotten values ('w', 4), ('gone', 2)"))
    move("upgrade", "0020")
    labels = PseudoLabelStore(database, "w")
    assert (labels.counts(), labels.labelled()) == ((6, 1, 0), 10)
    assert labels.offsets() == {"t": {"0": 4, "1": 5}}
    assert PseudoLabelStore(database, "gone").labelled() == 2
    move("downgrade", "0019")
    with database.read() as connection:
        found = connection.execute(sa.text("select workload, pseudo_labels from forgotten order by workload")).all()
    assert [tuple(row) for row in found] == [("gone", 2), ("w", 4)]


def test_retention_in_small_batches_keeps_the_counts(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    world = new_world()
    world.labels.add([new(n, None if n % 4 == 0 else "odd", 0, n) for n in range(20)])
    world.labels.mark_published([f"q{n}" for n in range(20)])
    store, place = RetentionStore(world.database, world.labels.workload), Place()
    swept = store.sweep(place, 9e9)
    while swept.next is not None:
        swept = store.sweep(swept.next, 9e9)
    assert (world.labels.counts(), world.labels.labelled()) == ((0, 0, 0), 20)
    assert world.labels.offsets() == {"t": {"0": 19}}
