"""What retention deletes, and what it leaves alone however old it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from semievol.types import Query
from semievold.round_states import RoundState
from semievold.store import retention
from semievold.store.database import Database
from semievold.store.pseudo_labels import NewLabel, PseudoLabelStore, query_hash
from semievold.store.retention import Place, RetentionStore, bytes_under, sizes
from semievold.store.rounds import RoundStore
from semievold.store.tables import adapters, feedback, label_counts, pseudo_labels, round_members, rounds
from tests.stream_world import World, pseudo_label

NewWorld = Callable[..., World]


def add(world: World, count: int, *, published: bool = True) -> list[str]:
    """Labels of a second each, the first one at 1000."""
    ids = [f"q{number:04}" for number in range(count)]
    new = [NewLabel(pseudo_label(query), query_hash(query)) for query in (Query(i, f"{i}?") for i in ids)]
    world.labels.add(new, ids if published else ())
    with world.database.write() as connection:
        for number, query_id in enumerate(ids):
            row = pseudo_labels.c.query_id == query_id
            connection.execute(
                sa.update(pseudo_labels).where(row).values(created_at=1000.0 + number, published=published)
            )
    return ids


def ended_round(
    world: World,
    number: int,
    members: Sequence[str],
    adapter: str | None,
    parent: str | None = None,
    *,
    state: str = "settled",
) -> None:
    at = {"workload": world.labels.workload, "created_at": 1.0, "updated_at": 1.0}
    with world.database.write() as connection:
        connection.execute(
            sa.insert(rounds).values(
                number=number,
                kind="evolve",
                state=state,
                trigger="t",
                options={},
                seed=0,
                attempts=0,
                adapter=adapter,
                **at,
            )
        )
        rows = [{"workload": at["workload"], "number": number, "query_id": each, "selected": True} for each in members]
        connection.execute(sa.insert(round_members), rows)
        if adapter is not None:
            connection.execute(
                sa.insert(adapters).values(
                    name=adapter, path="p", content_hash="h", round=number, parent=parent, state="retired", **at
                )
            )


def sweep(store: RetentionStore, *, before: float = 0.0, keep: int | None = None) -> int:
    """A whole pass."""
    place: Place | None = Place()
    oldest = 0.0 if keep is None else store.oldest_kept(keep)
    total = 0
    while place is not None:
        swept = store.sweep(place, max(before, oldest))
        total, place = total + swept.deleted, swept.next
    return total


def left(world: World) -> list[str]:
    return sorted(row.id for row in world.labels.pool())


def mark(world: World, adapter: str, state: str) -> None:
    with world.database.write() as connection:
        connection.execute(sa.update(adapters).where(adapters.c.name == adapter).values(state=state))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 7)


@pytest.mark.usefixtures("small_batches")
def test_the_newest_are_kept_by_count(new_world: NewWorld) -> None:
    world = new_world()
    ids = add(world, 50)
    store = RetentionStore(world.database, world.labels.workload)
    assert sweep(store, keep=20) == 30
    assert left(world) == ids[30:]
    assert sweep(store, keep=20) == 0


@pytest.mark.usefixtures("small_batches")
def test_what_is_older_goes_by_age(new_world: NewWorld) -> None:
    world = new_world()
    ids = add(world, 30)
    store = RetentionStore(world.database, world.labels.workload)
    assert sweep(store, before=1012.0) == 12
    assert left(world) == ids[12:]


@pytest.mark.usefixtures("small_batches")
def test_labels_of_one_moment_go_batch_by_batch_but_for_those_that_are_held(new_world: NewWorld) -> None:
    world = new_world()
    ids = add(world, 40)
    with world.database.write() as connection:
        old = pseudo_labels.c.query_id.in_(ids[:30])
        connection.execute(sa.update(pseudo_labels).where(old).values(created_at=1000.0))
    held = [ids[place] for place in (0, 6, 7, 13, 14, 29)]
    ended_round(world, 0, held, "w-r0000-1")
    store, labels = RetentionStore(world.database, world.labels.workload), world.labels
    assert sweep(store, keep=10) == 24
    assert left(world) == sorted([*held, *ids[30:]])
    assert labels.counts().total == 16
    # What is held counts among those that are kept: the oldest of them is the one that is held.
    assert store.oldest_kept(16) == 0.0
    assert store.oldest_kept(15) == 1000.0
    assert store.oldest_kept(10) == 1030.0


@pytest.mark.usefixtures("small_batches")
def test_a_label_goes_with_its_history_and_another_workloads_stays(new_world: NewWorld) -> None:
    world = new_world()
    ids = add(world, 10)
    world.labels.replace([replace(label, entropy=0.1) for label in world.labels.load(ids)])
    other = PseudoLabelStore(world.database, "another")
    other.add([NewLabel(pseudo_label(Query(ids[0], "?")), "h")])
    assert sweep(RetentionStore(world.database, world.labels.workload), keep=4) == 6
    assert [bool(world.labels.history(query_id)) for query_id in ids] == [False] * 6 + [True] * 4
    assert other.get(ids[0]) is not None


@pytest.mark.usefixtures("small_batches")
def test_what_is_not_published_stays(new_world: NewWorld) -> None:
    world = new_world()
    add(world, 10, published=False)
    assert sweep(RetentionStore(world.database, world.labels.workload), before=9e9, keep=1) == 0


@pytest.mark.usefixtures("small_batches")
def test_what_an_existing_adapter_and_its_ancestors_learned_from_stays_until_its_directory_goes(
    new_world: NewWorld,
) -> None:
    world = new_world()
    ids = add(world, 40)
    ended_round(world, 0, ids[:5], "a0")
    ended_round(world, 1, ids[5:10], "a1", parent="a0")
    ended_round(world, 2, ids[10:15], "a2")
    mark(world, "a0", "deleted")
    mark(world, "a2", "deleted")
    store = RetentionStore(world.database, world.labels.workload)
    assert store.needed_rounds() == [0, 1]
    sweep(store, before=9e9)
    assert left(world) == ids[:10]
    mark(world, "a1", "deleted")
    sweep(store, before=9e9)
    assert left(world) == []


@pytest.mark.usefixtures("small_batches")
def test_the_pool_of_an_open_round_stays(new_world: NewWorld) -> None:
    world = new_world()
    ids = add(world, 12)
    ended_round(world, 0, ids[:3], None, state=RoundState.TRAINING.value)
    ended_round(world, 1, ids[3:6], None, state=RoundState.FAILED.value)
    sweep(RetentionStore(world.database, world.labels.workload), before=9e9)
    assert left(world) == ids[:3]


@pytest.mark.usefixtures("small_batches")
def test_while_a_round_chooses_its_pool_nothing_is_deleted(new_world: NewWorld) -> None:
    world = new_world()
    ids = add(world, 12)
    ended_round(world, 0, ids[:3], None, state=RoundState.PLANNED.value)
    store = RetentionStore(world.database, world.labels.workload)
    assert sweep(store, before=9e9) == 0
    assert left(world) == ids


@pytest.mark.usefixtures("small_batches")
def test_what_is_needed_or_unpublished_takes_nothing_from_the_newest(new_world: NewWorld) -> None:
    world = new_world()
    ids = add(world, 30)
    ended_round(world, 0, ids[:25], "a0")
    assert sweep(RetentionStore(world.database, world.labels.workload), keep=3) == 2
    assert left(world) == [*ids[:25], *ids[27:]]


@pytest.mark.usefixtures("small_batches")
def test_what_was_deleted_counts_as_labelled_and_what_people_said_of_it_stays(new_world: NewWorld) -> None:
    world = new_world()
    ids = add(world, 20)
    said = {"workload": world.labels.workload, "client": "c", "asked": "k", "answer": "even", "outcome": "kept"}
    with world.database.write() as connection:
        connection.execute(sa.insert(feedback).values(query_id=ids[0], created_at=1.0, **said))
    store = RetentionStore(world.database, world.labels.workload)
    assert (sweep(store, keep=8), sweep(store, keep=5)) == (12, 3)
    assert (world.labels.counts().total, world.labels.labelled()) == (5, 20)
    with world.database.read() as connection:
        assert connection.execute(sa.select(feedback.c.query_id)).scalars().all() == [ids[0]]


@pytest.mark.usefixtures("small_batches")
def test_members_of_old_rounds_go_unless_an_adapter_needs_them(new_world: NewWorld) -> None:
    world = new_world()
    ids = add(world, 20)
    for number in range(4):
        ended_round(world, number, ids, f"a{number}")
    for name in ("a1", "a2", "a3"):
        mark(world, name, "deleted")
    store, kept = (
        RetentionStore(world.database, world.labels.workload),
        RoundStore(world.database, world.labels.workload),
    )
    deleted = 0
    while some := store.forget_rounds(store.needed_rounds(), 1):
        assert some <= 7
        deleted += some
    assert deleted == 40
    assert [len(kept.members(number)) for number in range(4)] == [20, 0, 0, 20]
    assert len(kept.all()) == 4


def test_sizes_name_every_table_with_its_rows(new_world: NewWorld) -> None:
    world = new_world()
    add(world, 30)
    found = {size.table: size for size in sizes(world.database, world.labels.workload)}
    assert found["pseudo_labels"].rows == 30
    assert found["pseudo_labels"].bytes is None or found["pseudo_labels"].bytes > 30 * 100
    others = {size.table: size.rows for size in sizes(world.database, "another")}
    assert others["pseudo_labels"] == 0


def test_a_directory_that_is_deleted_while_its_bytes_are_added_up_counts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").write_bytes(b"12345")
    going = tmp_path / "rounds" / "r0001"
    going.mkdir(parents=True)
    scandir, deleted = os.scandir, []

    def deleting(path: str) -> object:
        if str(path) == str(going):
            going.rmdir()
            deleted.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deleting)
    assert bytes_under(tmp_path) == 5
    assert deleted


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database for all cases: a migration takes longer than a case."""
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('state') / 'state.db'}", "w")
    database.migrate()
    yield database
    database.close()


@settings(max_examples=50)
@given(
    spared=st.sets(st.integers(0, 29)),
    unpublished=st.sets(st.integers(0, 29)),
    keep=st.none() | st.integers(1, 35),
    before=st.none() | st.integers(995, 1035),
)
def test_a_pass_deletes_what_is_old_and_not_needed_and_nothing_else(
    one_file: Database,
    spared: set[int],
    unpublished: set[int],
    keep: int | None,
    before: int | None,
) -> None:
    database = one_file
    with database.write() as connection:
        for table in (pseudo_labels, round_members, rounds, label_counts):
            connection.execute(sa.delete(table))
    labels = PseudoLabelStore(database, "w")
    ids = [f"q{number:02}" for number in range(30)]
    labels.add([NewLabel(pseudo_label(Query(i, "?")), "h") for i in ids])
    with database.write() as connection:
        one = sa.update(pseudo_labels).where(pseudo_labels.c.query_id == sa.bindparam("at"))
        connection.execute(
            one.values(created_at=sa.bindparam("made"), published=sa.bindparam("shown")),
            [{"at": each, "made": 1000.0 + n, "shown": n not in unpublished} for n, each in enumerate(ids)],
        )
        if spared:
            rows = [{"workload": "w", "number": 3, "query_id": ids[n], "selected": False} for n in spared]
            connection.execute(sa.insert(round_members), rows)
            training = {"number": 3, "kind": "evolve", "state": "training", "trigger": "t", "options": {}, "seed": 0}
            at = {"workload": "w", "attempts": 0, "created_at": 1.0, "updated_at": 1.0}
            connection.execute(sa.insert(rounds).values(**training, **at))
    store = RetentionStore(database, "w")
    newest = 0 if keep is None or keep > 30 else 30 - keep
    old = [n for n in range(30) if n < newest or (before is not None and 1000 + n < before)]
    expected = {n for n in old if n not in spared | unpublished}
    assert sweep(store, before=before or 0.0, keep=keep) == len(expected)
    assert set(labels.known(ids)) == {ids[n] for n in range(30) if n not in expected}
    assert labels.labelled() == 30


def test_a_batch_is_found_by_indexes_however_many_labels_and_members_there_are(tmp_path: Path) -> None:
    """Asked of SQLite, which has no figures of its tables unless somebody has it take them."""
    database = Database(f"sqlite:///{tmp_path / 'state.db'}", "w")
    database.migrate()
    PseudoLabelStore(database, "w").add([NewLabel(pseudo_label(Query("q", "?")), "h")])
    with database.write() as connection:
        connection.execute(sa.update(pseudo_labels).values(created_at=5.0))
    asked: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        if "pseudo_label" in statement or "FROM rounds" in statement:
            asked.append((statement, parameters))

    sa.event.listen(database._engine, "before_cursor_execute", note)
    RetentionStore(database, "w").sweep(Place(3.0), 9.0)
    sa.event.remove(database._engine, "before_cursor_execute", note)
    assert len(asked) == 4  # whether a round chooses, where the batch ends, which pools it meets, what goes
    with database.read() as connection:
        for statement, parameters in asked:
            plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            for step in plan:
                assert "SCAN" not in step, plan
                if "pseudo_labels" in step:
                    assert "ix_pseudo_labels_created (workload=? AND created_at>? AND created_at<?)" in step, plan
                if "round_members" in step:
                    assert "(workload=? AND query_id=?)" in step, plan
    database.close()
