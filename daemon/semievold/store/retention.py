"""What of the state grows with the traffic is deleted again, oldest first, a little at a time.

Owns which rows may go. Invariants: what a round that is open or an adapter that exists descends from stays, whatever
its age, and so does what is not published yet; a transaction is small, so that the intake never waits for long.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from semievold.round_states import ENDED, RoundState
from semievold.store.database import Database
from semievold.store.labels.tally import LabelTally
from semievold.store.tables import (
    adapters,
    metadata,
    operator_requests,
    pseudo_label_history,
    pseudo_labels,
    round_examples,
    round_members,
    round_outcomes,
    rounds,
    shadow_pairs,
)

BATCH = 500
"""Rows that one transaction looks at: some milliseconds of the write lock."""
ROWS_OF_ROUNDS = (
    (round_members, "query_id"),
    (round_outcomes, "example_id"),
    (round_examples, "example_id"),
    (shadow_pairs, "key"),
)
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
        self._tally = LabelTally(database, workload)

    def needed_rounds(self) -> list[int]:
        """The rounds that are open or whose adapter exists, and those that these adapters started from."""
        with self._database.read() as connection:
            return sorted(self._needed(connection))

    def _needed(self, connection: Connection) -> set[int]:
        a, r = adapters.c, rounds.c
        columns = sa.select(*a["name", "round", "parent", "state"]).where(a.workload == self._workload)
        versions = {row.name: row for row in connection.execute(columns)}
        still_open = sa.select(r.number).where(r.workload == self._workload, r.state.not_in([s.value for s in ENDED]))
        needed = set(connection.execute(still_open).scalars())
        for name, version in versions.items():
            at: str | None = name if version.state not in GONE else None
            while at in versions and (at == name or versions[at].round not in needed):
                needed.add(versions[at].round)
                at = versions[at].parent
        return needed

    def oldest_kept(self, keep: int) -> float:
        """When the oldest of the newest `keep` pseudo-labels was made, UTC seconds; 0 where there are no more."""
        c = pseudo_labels.c
        newest_first = sa.select(c.created_at).where(c.workload == self._workload).order_by(c.created_at.desc())
        with self._database.read() as connection:
            return connection.execute(newest_first.offset(keep - 1).limit(1)).scalar() or 0.0

    def sweep(self, place: Place, before: float) -> Swept:
        """Delete what the next BATCH pseudo-labels have that may go, with their history.

        What rounds need is asked in the same transaction, and while a round is choosing its pool nothing is deleted.

        Args:
            place: where the pass is; `Place()` at its begin.
            before: UTC seconds; only what was first labelled earlier goes.
        """
        c = pseudo_labels.c
        later = sa.or_(
            c.created_at > place.created_at, (c.created_at == place.created_at) & (c.query_id > place.query_id)
        )
        some = (
            sa.select(*c["query_id", "created_at", "published"], c.answer.is_(None).label("unparsed"))
            .where(c.workload == self._workload, later, c.created_at < before)
            .order_by(c.created_at, c.query_id)
            .limit(BATCH)
        )
        with self._database.write() as connection:
            if self._is_choosing(connection):
                return Swept(0, None)
            rows = connection.execute(some).all()
            held = self._members([row.query_id for row in rows], connection)
            going = [row for row in rows if row.published and row.query_id not in held]
            self._delete(connection, [row.query_id for row in going])
            self._tally.delete(connection, len(going), sum(row.unparsed for row in going))
        last = rows[-1] if len(rows) == BATCH else None
        return Swept(len(going), None if last is None else Place(last.created_at, last.query_id))

    def _is_choosing(self, connection: Connection) -> bool:
        """Whether a round is planned: what it will learn from is not written down yet."""
        r = rounds.c
        planned = sa.select(r.number).where(r.workload == self._workload, r.state == RoundState.PLANNED.value)
        return connection.execute(planned.limit(1)).first() is not None

    def _members(self, ids: list[str], connection: Connection) -> set[str]:
        """Those that a needed round had in its pool."""
        m = round_members.c
        found = sa.select(*m["query_id", "number"]).where(m.workload == self._workload, m.query_id.in_(ids))
        rows = connection.execute(found).all() if ids else ()
        needed = self._needed(connection) if rows else set()
        return {row.query_id for row in rows if row.number in needed}

    def _delete(self, connection: Connection, ids: list[str]) -> None:
        """What people said of a query stays: it is about what was asked, and may be asked again."""
        if not ids:
            return
        for table in (pseudo_label_history, pseudo_labels):
            mine = (table.c.workload == self._workload) & table.c.query_id.in_(ids)
            connection.execute(sa.delete(table).where(mine))

    def forget_rounds(self, needed: Sequence[int], keep: int) -> int:
        """Delete BATCH rows of what was asked and answered in rounds older than the newest `keep` which nothing needs;
        how many.

        The round itself, its events, counts, evidence and hashes stay.
        """
        r = rounds.c
        newest = sa.select(sa.func.max(r.number)).where(r.workload == self._workload)
        with self._database.write() as connection:
            last: int = connection.execute(newest).scalar() or 0
            old = sa.select(r.number).where(
                r.workload == self._workload, r.number <= last - keep, r.number.not_in(needed)
            )
            for table, column in ROWS_OF_ROUNDS:
                # Round by round: the rows of those that are needed may be millions, and are not looked through.
                has = sa.exists().where(table.c.workload == r.workload, table.c.number == r.number)
                number = connection.execute(old.where(has).order_by(r.number).limit(1)).scalar()
                if number is not None:
                    return self._delete_some(connection, table, number, column)
        return 0

    def _delete_some(self, connection: Connection, table: sa.Table, number: int, column: str) -> int:
        mine = (table.c.workload == self._workload) & (table.c.number == number)
        ids = connection.execute(sa.select(table.c[column]).where(mine).distinct().limit(BATCH)).scalars().all()
        return connection.execute(sa.delete(table).where(mine, table.c[column].in_(ids))).rowcount

    def forget_requests(self, before: float) -> int:
        """Delete answered requests of operators that were made earlier; how many.

        But the rollbacks that were done: they say which versions are no good.
        """
        c = operator_requests.c
        kept = (c.state == "pending") | ((c.kind == "rollback") & (c.state == "done"))
        gone = (c.workload == self._workload) & ~kept & (c.created_at < before)
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
    """Bytes of the files under a directory; what is deleted meanwhile counts nothing."""
    return bytes_of(Path(place) / name for place, _, names in os.walk(directory) for name in names)


def bytes_of(paths: Iterable[Path]) -> int:
    """Bytes of those that are files; what is deleted meanwhile counts nothing."""
    total = 0
    for path in paths:
        with suppress(OSError):
            status = path.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
