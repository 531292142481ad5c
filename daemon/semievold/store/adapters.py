"""The registry of adapter versions: which exist, where, and what became of each.

A version is never changed: one name, one directory, one content hash. Only its state moves:
candidate -> serving -> previous -> retired -> deleted, or candidate -> rejected -> deleted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, RowMapping, select, true, update

from semievold.errors import StateConflict
from semievold.store.database import Database
from semievold.store.tables import adapters, rounds

SERVED = ("serving", "previous", "retired")
"""States of versions that were promoted once and whose directory may be there."""
IDLE = ("retired", "rejected")
"""States of versions whose directory is kept for a while only."""
DELETED = "deleted"
"""Of those whose directory is gone, and from which nothing descends any more."""
BASE = "base"
"""What people call the model without an adapter."""


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One row of `adapters`."""

    name: str
    path: Path
    content_hash: str
    round: int
    parent: str | None
    state: str
    created_at: float
    updated_at: float
    approved_at: float | None = None
    unclean: str | None = None

    def found_in(self, adapters: Path) -> AdapterVersion:
        """With the path that it has under `adapters` today: the whole directory may have been moved since."""
        here = adapters / self.name
        return replace(self, path=here) if here.is_dir() else self


def _version(row: RowMapping) -> AdapterVersion:
    values = {key: value for key, value in row.items() if key != "workload"}
    values["path"] = Path(values["path"])
    return AdapterVersion(**values)


class AdapterStore:
    """The adapter versions of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    def all(self) -> list[AdapterVersion]:
        """Oldest first."""
        return self._found(self._mine())

    def there(self) -> list[AdapterVersion]:
        """Those whose directory may be there, oldest first: so many as are kept, however many there ever were."""
        return self._found(self._mine(), adapters.c.state != DELETED)

    def listed(self, limit: int) -> list[AdapterVersion]:
        """Oldest first: all that may be there, and of the deleted ones the newest, `limit` with these."""
        there = self.there()
        deleted = self._found(self._mine(), adapters.c.state == DELETED, newest=max(0, limit - len(there)))
        return sorted([*deleted, *there], key=lambda version: (version.round, version.name))

    def deleted(self) -> frozenset[str]:
        """Names."""
        gone = select(adapters.c.name).where(self._mine(), adapters.c.state == DELETED)
        with self._database.read() as connection:
            return frozenset(connection.execute(gone).scalars())

    def _mine(self) -> ColumnElement[bool]:
        return adapters.c.workload == self._workload

    def _found(self, *which: ColumnElement[bool], newest: int | None = None) -> list[AdapterVersion]:
        newest_first = select(adapters).where(*which).order_by(adapters.c.round.desc(), adapters.c.name.desc())
        with self._database.read() as connection:
            found = connection.execute(newest_first.limit(newest)).mappings().all()
        return [_version(row) for row in reversed(found)]

    def served_before(self, name: str, serving: str | None) -> str | None:
        """The version that somebody wants to go back to; None: the base model, which is called `base`.

        Raises:
            StateConflict: it serves, or never did.
        """
        if name == (serving or BASE):
            raise StateConflict(f"{name} serves already")
        if name == BASE:
            return None
        version = self.get(name)
        if version is None or version.state not in SERVED:
            raise StateConflict(f"{name} is no version that served before; `semievol adapters list` shows them")
        return name

    def get(self, name: str) -> AdapterVersion | None:
        statement = select(adapters).where(adapters.c.workload == self._workload, adapters.c.name == name)
        with self._database.read() as connection:
            row = connection.execute(statement).mappings().first()
        return None if row is None else _version(row)

    def anchor(self) -> str | None:
        """The version that no candidate may be shown worse than: the last one that a person approved and that served,
        else the newest warm one. None: there is neither.
        """
        a, r = adapters.c, rounds.c
        served = a.state.in_(("serving", "previous", "retired"))
        approved = (
            select(a.name)
            .where(a.workload == self._workload, a.approved_at.is_not(None), served)
            .order_by(a.approved_at.desc())
        )
        warm = (
            select(r.adapter)
            .where(r.workload == self._workload, r.kind == "warm", r.state.in_(("promoted", "settled")))
            .order_by(r.number.desc())
        )
        with self._database.read() as connection:
            found = connection.execute(approved.limit(1)).scalar()
            return found if found is not None else connection.execute(warm.limit(1)).scalar()

    def mark(self, name: str, state: str, of: Collection[str] | None = None) -> bool:
        """Give it that state; with `of`, only from one of these. Whether it has it now."""
        a = adapters.c
        which = (self._mine(), a.name == name, true() if of is None else a.state.in_(of))
        with self._database.write() as connection:
            marked = connection.execute(
                update(adapters).where(*which).values(state=state, updated_at=self._database.now())
            )
            return marked.rowcount == 1


def deleted_text(name: str | None) -> str:
    """What people are told of a deleted version that is asked for."""
    return f"the directory of adapter {name!r} was deleted (artifacts.keep_adapters)"


def approve(connection: Connection, workload: str, name: str, at: float | None) -> None:
    """Keep that a person said `at` that this version should serve; None: what was said holds no longer."""
    mine = (adapters.c.workload == workload, adapters.c.name == name)
    connection.execute(update(adapters).where(*mine).values(approved_at=at))
