"""What descends from a label: as recorded, and against a walk over every edge that knows no shortcut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from semievold.store.database import Database
from semievold.store.lineage.walk import LineageStore
from semievold.store.tables import (
    adapters,
    examples,
    pseudo_label_history,
    pseudo_labels,
    round_examples,
    round_members,
    rounds,
)

LABELS = ("e0", "e1", 'é "2"')


@dataclass
class Made:
    """A round of a drawn history: members are (query, revision, selected); `parent` is a number of an earlier round."""

    examples: set[str]
    members: dict[int, tuple[int, bool]]
    consensus: bool
    parent: int | None
    relabelled: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """What the adapter labels (again) afterwards, with the neighbours that it saw."""


@st.composite
def histories(draw: st.DrawFn) -> list[Made]:
    """Rounds that follow each other; each adapter labels some of six queries."""
    revisions: dict[int, int] = {}
    made: list[Made] = []
    shown = st.lists(st.sampled_from(LABELS), max_size=2, unique=True).map(tuple)
    for number in range(draw(st.integers(1, 4))):
        known = sorted(revisions)
        pool = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
        members = {query: (revisions[query], draw(st.booleans())) for query in pool}
        parent = draw(st.sampled_from([None, *range(number)]))
        taught = draw(st.sets(st.sampled_from(LABELS)))
        labelled = draw(st.dictionaries(st.integers(0, 5), shown, max_size=4))
        made.append(Made(taught, members, draw(st.booleans()), parent, labelled))
        for query in labelled:
            revisions[query] = revisions.get(query, 0) + 1
    return made


Node = tuple[Any, ...]


def brute_force(history: list[Made], label: str) -> set[Node]:
    """Follow every edge from the label until nothing new is found."""
    edges: set[tuple[Node, Node]] = set()
    revisions: dict[int, int] = {}
    for number, made in enumerate(history):
        here: Node = ("round", number)
        edges.add((here, ("adapter", number)))
        edges |= {(("label", each), here) for each in made.examples}
        edges |= {
            (("pseudo-label", query, revision), here)
            for query, (revision, selected) in made.members.items()
            if selected or made.consensus
        }
        if made.parent is not None:
            edges.add((("adapter", made.parent), here))
        for query, neighbours in made.relabelled.items():
            revisions[query] = revisions.get(query, 0) + 1
            this: Node = ("pseudo-label", query, revisions[query])
            edges.add((("adapter", number), this))
            edges |= {(("label", each), this) for each in neighbours}
    found: set[Node] = {("label", label)}
    while more := {to for origin, to in edges if origin in found} - found:
        found |= more
    return found - {("label", label)}


def write(database: Database, workload: str, history: list[Made]) -> None:
    """The history as rows."""
    mine, present = {"workload": workload}, dict[int, dict[str, Any]]()
    with database.write() as connection:

        def add(table: sa.Table, **values: Any) -> None:
            connection.execute(sa.insert(table).values(**mine, **values))

        for each in LABELS:
            asked = {"query": {}, "answer": "a", "holdout": False, "indexed": True, "retracted": False}
            add(examples, id=each, created_at=0.0, updated_at=0.0, **asked)
        for number, made in enumerate(history):
            told = {"kind": "evolve", "state": "settled", "trigger": "t", "options": {}, "seed": 0, "attempts": 0}
            add(rounds, number=number, snapshot={}, created_at=1.0, updated_at=1.0, adapter=f"a{number}", **told)
            parent = None if made.parent is None else f"a{made.parent}"
            told = {"path": "p", "content_hash": "h", "state": "retired", "created_at": 1.0, "updated_at": 1.0}
            add(adapters, name=f"a{number}", round=number, parent=parent, **told)
            add(round_examples, number=number, example_id="always", role="training")  # the round said what it had
            for each in made.examples:
                add(round_examples, number=number, example_id=each, role="training")
            for query, (revision, selected) in made.members.items():
                share = 0.5 if made.consensus else None
                told = {"selected": selected, "consensus": share, "revision": revision, "depth": 1}
                add(round_members, number=number, query_id=f"q{query}", **told)
            for query, neighbours in made.relabelled.items():
                if query in present:
                    add(pseudo_label_history, **present[query])
                present[query] = {
                    "query_id": f"q{query}",
                    "revision": present[query]["revision"] + 1 if query in present else 1,
                    "answer": "a",
                    "entropy": 0.1,
                    "agreement": 1.0,
                    "adapter": f"a{number}",
                    "candidates": [],
                    "neighbours": [[each, 0.5] for each in neighbours],
                    "created_at": 1.0,
                }
        for row in present.values():
            told = {"query": {}, "content_hash": "h", "confidence": 1.0, "justified": False, "published": True}
            add(pseudo_labels, updated_at=1.0, **row, **told)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    path: Path = tmp_path_factory.mktemp("lineage") / "state.db"
    opened = Database(f"sqlite:///{path}")
    opened.migrate()
    yield opened
    opened.close()


WORKLOADS = count()


@settings(max_examples=20)
@given(history=histories())
def test_descendants_are_those_of_a_walk_over_every_edge(database: Database, history: list[Made]) -> None:
    workload = f"w{next(WORKLOADS)}"
    write(database, workload, history)
    for label in LABELS:
        found = LineageStore(database, workload).of_example(label)
        nodes: set[Node] = {("round", number) for number in found.rounds}
        nodes |= {("adapter", int(name[1:])) for name in found.adapters}
        nodes |= {("pseudo-label", int(query[1:]), revision) for query, revision in found.pseudo_labels}
        assert nodes == brute_force(history, label)


@settings(max_examples=10)
@given(history=histories())
def test_one_walk_for_several_labels_finds_what_one_for_each_finds(database: Database, history: list[Made]) -> None:
    workload = f"w{next(WORKLOADS)}"
    write(database, workload, history)
    store = LineageStore(database, workload)
    with database.read() as connection:
        reached = store.reached(connection, LABELS)
        found = store.made_by(connection, reached)
    each = {label: store.of_example(label) for label in LABELS}
    assert found.pseudo_labels == frozenset().union(*(below.pseudo_labels for below in each.values()))
    assert set(found.rounds) == {number for below in each.values() for number in below.rounds}
    assert set(found.adapters) == {name for below in each.values() for name in below.adapters}
    assert all(name in each[origin].adapters for name, origin in reached.adapters.items())
    assert all(number in each[origin].rounds for number, origin in reached.rounds.items())


def test_a_walk_catches_up_with_rounds_that_began_meanwhile(database: Database) -> None:
    history = [Made({"e0"}, {}, False, None, {0: ()}), Made(set(), {0: (1, True)}, False, None)]
    store, workload = LineageStore(database, "late"), "late"
    with database.read() as connection:
        reached = store.reached(connection, ["e0", "e1"])
    assert (reached.rounds, reached.adapters) == ({}, {})
    write(database, workload, history)
    with database.write() as connection:
        store.catch_up(connection, ["e0", "e1"], reached)
    assert (reached.rounds, reached.adapters) == ({0: "e0", 1: "e0"}, {"a0": "e0", "a1": "e0"})


def test_a_round_that_did_not_say_what_it_had_descends_from_what_was_there_before_it(database: Database) -> None:
    write(database, "old", [Made(set(), {}, False, None, {0: ()})])
    with database.write() as connection:
        connection.execute(sa.delete(round_examples).where(round_examples.c.workload == "old"))
    store = LineageStore(database, "old")
    found = store.of_example("e0")
    assert (found.rounds, found.adapters, found.pseudo_labels) == ((0,), ("a0",), {("q0", 1)})
    with database.write() as connection:
        connection.execute(sa.update(examples).where(examples.c.workload == "old").values(created_at=2.0))
    assert store.of_example("e0").rounds == ()


def test_what_descends_from_an_adapter_and_from_a_pseudo_label_leaves_out_themselves(database: Database) -> None:
    history = [Made({"e0"}, {}, False, None, {0: ("e0",)}), Made(set(), {0: (1, True)}, False, None, {1: ()})]
    write(database, "both", history)
    store = LineageStore(database, "both")
    below = store.of_adapter("a0")
    assert (below.adapters, below.rounds, below.pseudo_labels) == (("a1",), (1,), {("q0", 1), ("q1", 1)})
    below = store.of_pseudo_label("q0")
    assert (below.adapters, below.rounds, below.pseudo_labels) == (("a1",), (1,), {("q1", 1)})
    assert store.learned(1) == [{"query_id": "q0", "revision": 1, "depth": 1, "answer": None, "labelled_by": "a0"}]
