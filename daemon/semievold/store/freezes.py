"""The kill switch: while a workload is frozen no round starts, goes on or promotes, by whichever process.

Owns the row. It is written by whoever says so, not by request: it holds from its commit on, for a promotion looks at it
in its own transaction (a round's and an operator's), and it can be said while no controller runs.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, delete, select

from semievol.examples.json_values import mended_text
from semievold.errors import StateConflict
from semievold.store.database import Database
from semievold.store.tables import freezes

MAX_REASON = 200
"""Characters that somebody may give as the reason; the breaker says more."""


class Freeze(NamedTuple):
    """Why nothing goes on, and since when (UTC seconds)."""

    reason: str
    at: float

    def said(self) -> str:
        return f"frozen ({self.reason}); rounds go on after `semievol thaw`"


class FreezeStore:
    """Whether one workload is frozen."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    def get(self) -> Freeze | None:
        with self._database.read() as connection:
            return read_freeze(connection, self._workload)

    def freeze(self, reason: str) -> Freeze:
        """Freeze from now on; who freezes again gives another reason, and the time stays."""
        with self._database.write() as connection:
            return write_freeze(self._database, connection, self._workload, reason[:MAX_REASON], self._database.now())

    def thaw(self) -> Freeze | None:
        """What was said when it was frozen; None: it was not."""
        with self._database.write() as connection:
            before = read_freeze(connection, self._workload)
            connection.execute(delete(freezes).where(freezes.c.workload == self._workload))
            return before


def write_freeze(database: Database, connection: Connection, workload: str, reason: str, now: float) -> Freeze:
    """Freeze inside the caller's transaction; see `FreezeStore.freeze`."""
    before = read_freeze(connection, workload)
    frozen = Freeze(mended_text(reason), now if before is None else before.at)
    database.upsert(connection, freezes, [{"workload": workload, **frozen._asdict()}], ("reason",))
    return frozen


def read_freeze(connection: Connection, workload: str) -> Freeze | None:
    row = connection.execute(select(*freezes.c["reason", "at"]).where(freezes.c.workload == workload)).first()
    return None if row is None else Freeze(row.reason, row.at)


def check_thawed(connection: Connection, workload: str) -> None:
    """Refuse what may not happen while the workload is frozen, in the transaction in which it would.

    Raises:
        StateConflict: it is frozen.
    """
    frozen = read_freeze(connection, workload)
    if frozen is not None:
        raise StateConflict(frozen.said())
