"""Leases in the database: at most one process holds a role, until it gives it up or has not renewed it for a while.

Every change is one atomic statement that reads the database's clock, so the clocks of the processes do not matter.
Invariant: `epoch` rises whenever the lease changes hands, and a write that passed `check` ends before it can change
hands: the former holder, however late it wakes up, writes nothing over its successor's work.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, select, update

from semievold.errors import LeaseLost
from semievold.store.database import Database
from semievold.store.tables import leases


class LeaseState(NamedTuple):
    """Who held the lease last, and how long it lasts, seconds; below zero it has run out or was released."""

    holder: str
    epoch: int
    left_s: float


class LeaseStore:
    """The lease on one role of one workload."""

    def __init__(self, database: Database, workload: str, role: str = "control") -> None:
        self._database = database
        self._workload = workload
        self._role = role

    def acquire(self, holder: str, ttl_s: float, *, seize: bool = False) -> int | None:
        """Take the lease if it is free (or, to `seize` it, in any case); the new epoch, or None when it is not."""
        now = self._database.clock()
        row = {"workload": self._workload, "role": self._role, "holder": holder, "epoch": 1, "expires_at": now + ttl_s}
        insert = self._database.insert(leases).values(row)
        # The clock again, and not the row's: the statement may have waited for a write of the former holder.
        taken = insert.on_conflict_do_update(
            index_elements=["workload", "role"],
            set_={"holder": holder, "epoch": leases.c.epoch + 1, "expires_at": now + ttl_s},
            where=None if seize else leases.c.expires_at <= now,
        ).returning(leases.c.epoch)
        with self._database.statement() as connection:
            epoch = connection.execute(taken).scalar()
        return None if epoch is None else int(epoch)

    def renew(self, holder: str, epoch: int, ttl_s: float) -> bool:
        """Hold it `ttl_s` from now on; False when somebody else took it. One that ran out and is untaken is renewed."""
        expires_at = self._database.clock() + ttl_s
        with self._database.statement(briefly=True) as connection:
            renewed = connection.execute(update(leases).where(self._held(holder, epoch)).values(expires_at=expires_at))
        return renewed.rowcount == 1

    def release(self, holder: str, epoch: int) -> None:
        """Give it up, so that another takes it at once; nothing when somebody else has it already."""
        with self._database.statement() as connection:
            connection.execute(update(leases).where(self._held(holder, epoch)).values(expires_at=0.0))

    def check(self, connection: Connection, holder: str, epoch: int) -> None:
        """Let the caller's transaction go on only while the lease is in these hands, and keep it there until it ends.

        Raises:
            LeaseLost: somebody else took it.
        """
        # FOR SHARE: on PostgreSQL the statement that takes the lease waits for this transaction. SQLite has one writer.
        mine = select(leases.c.epoch).where(self._held(holder, epoch)).with_for_update(read=True)
        if connection.execute(mine).scalar() is None:
            raise LeaseLost(f"the lease on {self._role} of {self._workload} was taken over after epoch {epoch}")

    def get(self) -> LeaseState | None:
        """The lease as it stands; None when nobody ever held it."""
        left_s = leases.c.expires_at - self._database.clock()
        statement = select(leases.c.holder, leases.c.epoch, left_s).where(self._mine())
        with self._database.read() as connection:
            row = connection.execute(statement).first()
        return None if row is None else LeaseState(*row)

    def _mine(self) -> ColumnElement[bool]:
        return and_(leases.c.workload == self._workload, leases.c.role == self._role)

    def _held(self, holder: str, epoch: int) -> ColumnElement[bool]:
        return and_(self._mine(), leases.c.holder == holder, leases.c.epoch == epoch)
