"""The registry of adapter versions: which exist, where, and what became of each.

A version is never changed: one name, one directory, one content hash. Only its state moves:
candidate -> serving -> previous -> retired -> deleted, or candidate -> rejected -> deleted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import RowMapping, select, update

from semievold.store.database import Database
from semievold.store.tables import adapters


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
        statement = (
            select(adapters).where(adapters.c.workload == self._workload).order_by(adapters.c.round, adapters.c.name)
        )
        with self._database.read() as connection:
            return [_version(row) for row in connection.execute(statement).mappings()]

    def get(self, name: str) -> AdapterVersion | None:
        statement = select(adapters).where(adapters.c.workload == self._workload, adapters.c.name == name)
        with self._database.read() as connection:
            row = connection.execute(statement).mappings().first()
        return None if row is None else _version(row)

    def mark(self, name: str, state: str) -> None:
        statement = (
            update(adapters)
            .where(adapters.c.workload == self._workload, adapters.c.name == name)
            .values(state=state, updated_at=self._database.now())
        )
        with self._database.write() as connection:
            connection.execute(statement)
