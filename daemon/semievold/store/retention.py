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
from semievold.store.adapters import DELETED
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


@dataclass(frozen=True, slots=True)
class Place:
    """How far a pass over the pseudo-labels has come: through all that were made until then, UTC seconds."""

    created_at: float = 0.0


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
            at: str | None = name if version.state != DELETED else None
            while at in versions and (at == name or versions[at].round not in needed):
                needed.add(versions[at].round)
                at = versions[at].parent
        return needed

    def oldest_kept(self, keep: int) -> float:
        """When the oldest of the newest `keep` pseudo-labels was made, UTC seconds; 0 where there are no more."""
        c = pseudo_labels.c
        with self._database.read() as connection:
            # Counted from the oldest: what is too many is little, what is kept may be millions.
            over = self._tally.read(connection).stored - keep
            if over <= 0:
                return 0.0
            first = sa.select(c.created_at).where(c.workload == self._workload).order_by(c.created_at)
            return connection.execute(first.offset(over).limit(1)).scalar() or 0.0

    def sweep(self, place: Place, before: float) -> Swept:
        """Delete what the next BATCH pseudo-labels have that may go, with their history; more, where more than so many
        were made at one moment, which is as many as one call of the intake stores.

        What rounds need is asked in the same transaction, and while a round is choosing its pool nothing is deleted.

        Args:
            place: where the pass is; `Place()` at its begin.
            before: UTC seconds; only what was first labelled earlier goes.
        """
        c, m = pseudo_labels.c, round_members.c
        left = (c.workload == self._workload, c.created_at > place.created_at, c.created_at < before)
        # In the order of their index alone: a database that knows little of the table would sort all of it else.
        times = sa.select(c.created_at).where(*left).order_by(c.created_at).limit(BATCH)
        with self._database.write() as connection:
            if self._is_choosing(connection):
                return Swept(0, None)
            found = connection.execute(times).scalars().all()
            if not found:
                return Swept(0, None)
            # Those of one moment stand together: the last moment, which may be cut, is left to the next batch.
            until = found[-1]
            if len(found) == BATCH:
                until = next((at for at in reversed(found) if at < found[-1]), until)
            # By the range that they are in, not by their names: hundreds of names in a statement cost more than it.
            here = (c.workload == self._workload, c.created_at > place.created_at, c.created_at <= until)
            member = sa.and_(m.workload == c.workload, m.query_id == c.query_id)
            # By label, each of which the index of the members knows: a join would be planned the other way round.
            met = sa.select(c.query_id).where(*here, sa.exists().where(member)).limit(1)
            needed = sorted(self._needed(connection)) if connection.execute(met).first() is not None else []
            held = sa.exists().where(member, m.number.in_(needed))
            going = sa.delete(pseudo_labels).where(*here, c.published, ~held if needed else sa.true())
            # The answer itself: SQLite (3.40) gets `answer IS NULL` wrong in a RETURNING.
            gone = connection.execute(going.returning(c.query_id, c.answer)).all()
            self._forget_history(connection, [row.query_id for row in gone])
            self._tally.delete(connection, len(gone), sum(row.answer is None for row in gone))
        return Swept(len(gone), Place(until) if len(found) == BATCH else None)

    def _is_choosing(self, connection: Connection) -> bool:
        """Whether a round is planned: what it will learn from is not written down yet."""
        r = rounds.c
        newest = sa.select(r.state).where(r.workload == self._workload).order_by(r.number.desc()).limit(1)
        return connection.execute(newest).scalar() == RoundState.PLANNED.value

    def _forget_history(self, connection: Connection, ids: list[str]) -> None:
        """What people said of a query stays: it is about what was asked, and may be asked again."""
        c = pseudo_label_history.c
        if ids:
            mine = (c.workload == self._workload) & self._database.among(c.query_id, ids)
            connection.execute(sa.delete(pseudo_label_history).where(mine))

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
        return connection.execute(sa.delete(table).where(mine, self._database.among(table.c[column], ids))).rowcount

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
