"""What was made from what: labels, pseudo-labels (each revision for itself), rounds and adapters, in both directions.

Owns the table `round_examples`, and the walk over all edges: a pseudo-label descends from its neighbours and from the
adapter that answered; a round from its examples, from the pseudo-labels that it selected, where there was a consensus
from its whole pool, and from the adapter that it went on from; an adapter from its round. Reads alone but for those
rows. Invariant: what was recorded before schema 0011, which kept less, counts as descending where it may.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from semievold.store.database import Database, chunks
from semievold.store.tables import (
    adapters,
    examples,
    pseudo_label_history,
    pseudo_labels,
    round_examples,
    round_members,
    rounds,
)

Role = Literal["training", "calibration"]
Revision = tuple[str, int]
"""A pseudo-label as it was: query id and revision, from 1."""
_TABLES = (pseudo_labels, pseudo_label_history)


@dataclass(frozen=True, slots=True)
class Descendants:
    """Everything that was made from something, the rounds in order; pseudo-labels also as they were earlier."""

    pseudo_labels: frozenset[Revision] = frozenset()
    rounds: tuple[int, ...] = ()
    adapters: tuple[str, ...] = ()


def write_round_examples(connection: Connection, workload: str, number: int, taken: Mapping[str, Role]) -> None:
    """Remember which labelled examples a round was made from; inside the caller's transaction."""
    rows = [{"workload": workload, "number": number, "example_id": id_, "role": role} for id_, role in taken.items()]
    if rows:
        connection.execute(sa.insert(round_examples), rows)


class LineageStore:
    """The lineage of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    def of_example(self, example_id: str) -> Descendants:
        """What descends from a labelled example; nothing does from an unknown one."""
        with self._database.read() as connection:
            return self.of_example_in(connection, example_id)

    def of_example_in(self, connection: Connection, example_id: str) -> Descendants:
        """As `of_example`, within a transaction."""
        seen = self.shown_in(connection, example_id)
        return self._walked(connection, seen, self._taught(connection, example_id), set())

    def of_adapter(self, name: str) -> Descendants:
        """What descends from an adapter, itself left out."""
        with self._database.read() as connection:
            found = self._walked(connection, set(), set(), {name})
        return Descendants(found.pseudo_labels, found.rounds, tuple(each for each in found.adapters if each != name))

    def of_pseudo_label(self, query_id: str) -> Descendants:
        """What descends from any revision of a pseudo-label, its own revisions left out."""
        with self._database.read() as connection:
            own: set[Revision] = set()
            for table in _TABLES:
                mine = (table.c.workload == self._workload) & (table.c.query_id == query_id)
                own |= {(query_id, row[0]) for row in connection.execute(sa.select(table.c.revision).where(mine))}
            found = self._walked(connection, own, set(), set())
        return Descendants(found.pseudo_labels - own, found.rounds, found.adapters)

    def examples_of(self, number: int) -> dict[str, Role]:
        """{example id: what for} of a round; empty for one before schema 0011."""
        statement = sa.select(*round_examples.c["example_id", "role"]).where(
            round_examples.c.workload == self._workload, round_examples.c.number == number
        )
        with self._database.read() as connection:
            return {row.example_id: row.role for row in connection.execute(statement.order_by("example_id"))}

    def learned(self, number: int) -> list[dict[str, Any]]:
        """The pseudo-labels that a round selected: query id, revision, depth, answer, and the adapter that answered."""
        m = round_members.c
        mine = (m.workload == self._workload) & (m.number == number) & m.selected.is_(True)
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(*m["query_id", "revision", "depth", "answer"]).where(mine).order_by(m.query_id)
            ).mappings()
            found = [dict(row) for row in rows]
            by: dict[Revision, str | None] = {}
            for some in chunks([row["query_id"] for row in found]):
                for table in _TABLES:
                    which = (table.c.workload == self._workload) & table.c.query_id.in_(some)
                    columns = table.c["query_id", "revision", "adapter"]
                    by |= {(row[0], row[1]): row[2] for row in connection.execute(sa.select(*columns).where(which))}
        return [{**row, "labelled_by": by.get((row["query_id"], row["revision"]))} for row in found]

    def depths(self) -> dict[str | None, int]:
        """{adapter: how many self-trainings lie one on another in it}; the base model and warm adapters have 0."""
        statement = sa.select(*rounds.c["adapter", "snapshot"]).where(
            rounds.c.workload == self._workload, rounds.c.adapter.is_not(None)
        )
        with self._database.read() as connection:
            return {row.adapter: int((row.snapshot or {}).get("depth") or 0) for row in connection.execute(statement)}

    # --- the walk -----------------------------------------------------------------------------------------------

    def shown_in(self, connection: Connection, example_id: str) -> set[Revision]:
        """The revisions of pseudo-labels that had the example as a neighbour; within a transaction."""
        found: set[Revision] = set()
        spelled = {json.dumps(example_id), json.dumps(example_id, ensure_ascii=False)}
        find = sa.func.instr if self._database.file is not None else sa.func.strpos
        for table in _TABLES:
            text = sa.cast(table.c.neighbours, sa.Text)
            statement = sa.select(*table.c["query_id", "revision", "neighbours"]).where(
                table.c.workload == self._workload, sa.or_(*(find(text, each) > 0 for each in spelled))
            )
            for row in connection.execute(statement):
                if any(neighbour[0] == example_id for neighbour in row.neighbours or ()):
                    found.add((row.query_id, row.revision))
        return found

    def _taught(self, connection: Connection, example_id: str) -> set[int]:
        """The rounds that had the example in their mix, or were calibrated on it."""
        e, r = round_examples.c, rounds.c
        mine = e.workload == self._workload
        found = set(connection.execute(sa.select(e.number).where(mine, e.example_id == example_id)).scalars())
        arrived = connection.execute(
            sa.select(examples.c.created_at).where(
                examples.c.workload == self._workload, examples.c.id == example_id, examples.c.holdout.is_(False)
            )
        ).scalar()
        if arrived is not None:  # examples are in every round's mix: of those that did not say so, in each later one's
            said = sa.exists().where(e.workload == r.workload, e.number == r.number)
            later = sa.select(r.number).where(
                r.workload == self._workload, r.snapshot.is_not(None), r.updated_at >= arrived, ~said
            )
            found |= set(connection.execute(later).scalars())
        return found

    def _walked(self, connection: Connection, seen: set[Revision], taught: set[int], unclean: set[str]) -> Descendants:
        """Rounds in their order: each is made from what was there before it."""
        a, r = adapters.c, rounds.c
        made = {
            row.round: row
            for row in connection.execute(sa.select(*a["name", "round", "parent"]).where(a.workload == self._workload))
        }
        numbers = connection.execute(
            sa.select(r.number).where(r.workload == self._workload).order_by(r.number)
        ).scalars()
        reached: list[int] = []
        for number in numbers:
            version = made.get(number)
            goes_on = version is not None and version.parent in unclean
            if number in taught or goes_on or self._learned_from(connection, number, seen, unclean):
                reached.append(number)
                if version is not None:
                    unclean.add(version.name)
        found = set(seen)
        for some in chunks(sorted(unclean)):
            for table in _TABLES:
                statement = sa.select(*table.c["query_id", "revision"]).where(
                    table.c.workload == self._workload, table.c.adapter.in_(some)
                )
                found.update((row[0], row[1]) for row in connection.execute(statement))
        ordered = [version.name for _, version in sorted(made.items()) if version.name in unclean]
        return Descendants(frozenset(found), tuple(reached), tuple(ordered))

    def _learned_from(self, connection: Connection, number: int, seen: set[Revision], unclean: Iterable[str]) -> bool:
        """Whether what a round learned from has one of these revisions, or one that these adapters made."""
        m = round_members.c
        # The consensus hears the whole pool: each answer in it has helped to place the centres.
        heard = m.selected.is_(True) | m.consensus.is_not(None)
        mine = (m.workload == self._workload) & (m.number == number) & heard
        names = sorted(unclean)
        for table in _TABLES if names else ():
            same = (table.c.workload == m.workload) & (table.c.query_id == m.query_id)
            revision = m.revision.is_(None) | (table.c.revision == m.revision)
            joined = sa.select(sa.literal(1)).select_from(round_members.join(table, same & revision))
            for some in chunks(names):
                if connection.execute(joined.where(mine, table.c.adapter.in_(some)).limit(1)).first() is not None:
                    return True
        for some in chunks(sorted({query_id for query_id, _ in seen})):
            statement = sa.select(*m["query_id", "revision"]).where(mine, m.query_id.in_(some))
            for row in connection.execute(statement):
                if row.revision is None or (row.query_id, row.revision) in seen:
                    return True
        return False
