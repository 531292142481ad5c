"""What of the state grows with the traffic is deleted again, oldest first, a little at a time.

Owns which rows may go. Invariants: what a round that is open or an adapter that exists descends from stays, whatever
its age, and so does what is not published yet; a transaction is small, so that the intake never waits for long.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from semievold.round_states import ENDED
from semievold.store.database import Database
from semievold.store.tables import (
    adapters,
    feedback,
    metadata,
    operator_requests,
    pseudo_label_history,
    pseudo_labels,
    round_examples,
    round_members,
    round_outcomes,
    rounds,
)

BATCH = 500
"""Rows that one transaction looks at: some milliseconds of the write lock."""
ROWS_OF_ROUNDS = ((round_members, "query_id"), (round_outcomes, "example_id"), (round_examples, "example_id"))
GONE = ("deleted",)
"""States of adapters that nothing descends from any more: neither is their directory there."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a pass over the pseudo-labels has come."""

    created_at: float = 0.0
    query_id: str = ""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one transaction did; `next` is None when the pass is over."""

    deleted: int
    next: Place | None


@dataclass(frozen=True, slots=True)
class TableSize:
    """Rows of this workload in a table (of all workloads, where rows name none), and bytes with indexes (None: the
    database does not tell).
    """

    table: str
    rows: int
    bytes: int | None


class RetentionStore:
    """Deletes rows of one workload.

    Args:
        database: as `Database.checked` where only the leader may delete.
    """

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    def needed_rounds(self) -> list[int]:
        """The rounds that are open or whose adapter exists, and those that these adapters started from."""
        a, r = adapters.c, rounds.c
        with self._database.read() as connection:
            versions = {
                row.name: row
                for row in connection.execute(
                    sa.select(*a["name", "round", "parent", "state"]).where(a.workload == self._workload)
                )
            }
            still_open = connection.execute(
                sa.select(r.number).where(r.workload == self._workload, r.state.not_in([s.value for s in ENDED]))
            ).scalars()
            needed = set(still_open)
        for name, version in versions.items():
            at: str | None = name if version.state not in GONE else None
            while at in versions:  # a chain ends: a parent is older than its child
                needed.add(versions[at].round)
                at = versions[at].parent
        return sorted(needed)

    def excess(self, keep: int) -> int:
        """How many pseudo-labels there are beyond the newest `keep`."""
        count = sa.select(sa.func.count()).where(pseudo_labels.c.workload == self._workload)
        with self._database.read() as connection:
            return max(0, connection.execute(count).scalar_one() - keep)

    def sweep(self, place: Place, needed: Iterable[int], *, before: float, excess: int) -> Swept:
        """Delete what the next BATCH pseudo-labels have that may go, with their history and feedback.

        Args:
            place: where the pass is; `Place()` at its begin.
            needed: rounds whose members stay (`needed_rounds`).
            before: UTC seconds; what was first labelled earlier goes by age.
            excess: how many may go whatever their age (`excess`, less what was deleted).
        """
        c = pseudo_labels.c
        later = sa.or_(
            c.created_at > place.created_at, (c.created_at == place.created_at) & (c.query_id > place.query_id)
        )
        some = (
            sa.select(*c["query_id", "created_at", "published"])
            .where(c.workload == self._workload, later)
            .order_by(c.created_at, c.query_id)
            .limit(BATCH)
        )
        with self._database.write() as connection:
            rows = connection.execute(some).all()
            held = self._members([row.query_id for row in rows], list(needed), connection)
            going: list[str] = []
            for row in rows:
                if row.created_at >= before and len(going) >= excess:
                    break
                if row.published and row.query_id not in held:
                    going.append(row.query_id)
            else:
                last = rows[-1] if len(rows) == BATCH else None
                self._delete(connection, going)
                return Swept(len(going), None if last is None else Place(last.created_at, last.query_id))
            self._delete(connection, going)
            return Swept(len(going), None)

    def _members(self, ids: list[str], needed: list[int], connection: Connection) -> set[str]:
        """Those that a needed round had in its pool."""
        m = round_members.c
        if not ids or not needed:
            return set()
        found = sa.select(m.query_id).where(m.workload == self._workload, m.query_id.in_(ids), m.number.in_(needed))
        return set(connection.execute(found).scalars())

    def _delete(self, connection: Connection, ids: list[str]) -> None:
        for table in (pseudo_label_history, feedback, pseudo_labels) if ids else ():
            mine = (table.c.workload == self._workload) & table.c.query_id.in_(ids)
            connection.execute(sa.delete(table).where(mine))

    def forget_rounds(self, needed: Iterable[int], keep: int) -> int:
        """Delete BATCH members and outcomes of rounds older than the newest `keep` which nothing needs; how many.

        The round itself, its events, counts, evidence and hashes stay.
        """
        r = rounds.c
        mine = r.workload == self._workload
        with self._database.write() as connection:
            newest = connection.execute(sa.select(sa.func.max(r.number)).where(mine)).scalar()
            old = () if newest is None else range(newest - keep + 1)
            for number in sorted(set(old) - set(needed)):
                for table, column in ROWS_OF_ROUNDS:
                    deleted = self._delete_some(connection, table, number, column)
                    if deleted:
                        return deleted
        return 0

    def _delete_some(self, connection: Connection, table: sa.Table, number: int, column: str) -> int:
        mine = (table.c.workload == self._workload) & (table.c.number == number)
        ids = connection.execute(sa.select(table.c[column]).where(mine).distinct().limit(BATCH)).scalars().all()
        if not ids:
            return 0
        return connection.execute(sa.delete(table).where(mine, table.c[column].in_(ids))).rowcount

    def forget_requests(self, before: float) -> int:
        """Delete answered requests of operators that were made earlier; how many."""
        c = operator_requests.c
        gone = (c.workload == self._workload) & (c.state != "pending") & (c.created_at < before)
        with self._database.write() as connection:
            ids = connection.execute(sa.select(c.id).where(gone).limit(BATCH)).scalars().all()
            if ids:
                connection.execute(sa.delete(operator_requests).where(c.id.in_(ids)))
            return len(ids)


def sizes(database: Database, workload: str) -> list[TableSize]:
    """Rows and bytes of every table, largest first."""
    found = []
    with database.read() as connection:
        for table in metadata.sorted_tables:
            count = sa.select(sa.func.count()).select_from(table)
            if "workload" in table.c:
                count = count.where(table.c.workload == workload)
            rows = connection.execute(count).scalar_one()
            found.append(TableSize(table.name, rows, _bytes(connection, database, table)))
    return sorted(found, key=lambda size: (-(size.bytes or 0), -size.rows, size.table))


def _bytes(connection: Connection, database: Database, table: sa.Table) -> int | None:
    if database.file is None:
        return int(connection.execute(sa.select(sa.func.pg_total_relation_size(table.name))).scalar_one())
    names = [table.name, *(index.name for index in table.indexes), f"sqlite_autoindex_{table.name}_1"]
    pages: Any = sa.table("dbstat", sa.column("name"), sa.column("pgsize"))
    try:
        with connection.begin_nested():
            summed = sa.select(sa.func.sum(pages.c.pgsize)).where(pages.c.name.in_(names))
            return int(connection.execute(summed).scalar_one() or 0)
    except sa.exc.OperationalError:  # SQLite was built without it
        return None


def bytes_under(directory: Path) -> int:
    """Bytes of the files under a directory."""
    return bytes_of(directory.rglob("*"))


def bytes_of(paths: Iterable[Path]) -> int:
    """Bytes of those that are files; what is deleted meanwhile counts nothing."""
    total = 0
    for path in paths:
        with suppress(OSError):
            status = path.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
