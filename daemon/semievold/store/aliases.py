"""The alias in the database: which adapter version the stable model name stands for.

A workload has one alias; under another name (`workload.alias` was changed) it goes on standing for what it stood for.
Invariant: an alias moves only together with the adapters' states, inside the caller's transaction, and every move
raises `generation`, over all names that it had, so that a reader can tell a newer truth from an older one.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from semievold.store.adapters import approve
from semievold.store.database import Database
from semievold.store.freezes import check_thawed
from semievold.store.requests import answer_request
from semievold.store.tables import adapters, aliases


@dataclass(frozen=True, slots=True)
class AliasState:
    """What the alias points at; adapter None is the base model."""

    adapter: str | None = None
    previous: str | None = None
    generation: int = 0


def read_alias(connection: Connection, workload: str) -> AliasState:
    """The alias as it was last moved, under whichever name; one that never moved points at the base model."""
    row = connection.execute(
        select(*aliases.c["adapter", "previous", "generation"])
        .where(aliases.c.workload == workload)
        .order_by(aliases.c.generation.desc())
        .limit(1)
    ).first()
    return AliasState() if row is None else AliasState(row.adapter, row.previous, row.generation)


def move_alias(connection: Connection, workload: str, alias: str, adapter: str | None, at: float) -> AliasState:
    """Point the alias at `adapter` and update the adapters' states: serving, previous, retired."""
    before = read_alias(connection, workload)
    after = AliasState(adapter, before.adapter, before.generation + 1)
    values = {
        "adapter": after.adapter,
        "previous": after.previous,
        "generation": after.generation,
        "updated_at": at,
    }
    mine = (aliases.c.workload == workload, aliases.c.alias == alias)
    if connection.execute(update(aliases).where(*mine).values(**values)).rowcount == 0:
        connection.execute(insert(aliases).values(workload=workload, alias=alias, **values))

    def mark(name: str | None, state: str) -> None:
        if name is not None:
            connection.execute(
                update(adapters)
                .where(adapters.c.workload == workload, adapters.c.name == name)
                .values(state=state, updated_at=at)
            )

    if before.previous not in (adapter, before.adapter):
        mark(before.previous, "retired")
    mark(before.adapter, "previous")
    mark(adapter, "serving")
    return after


class AliasStore:
    """The alias of one workload."""

    def __init__(self, database: Database, workload: str, alias: str) -> None:
        self._database = database
        self._workload = workload
        self._alias = alias

    def get(self) -> AliasState:
        with self._database.read() as connection:
            return read_alias(connection, self._workload)

    def move(self, adapter: str | None, request_id: int | None = None, *, away: bool = False) -> AliasState:
        """Move by an operator's hand (rounds move it through RoundStore), who approves what is to serve thereby.

        The request is answered in the same transaction, so that no second leader moves the alias for it again.
        `away`: it is moved for what serves so far is no good, which is allowed while rounds are frozen too.

        Raises:
            StateConflict: rounds are frozen.
        """
        with self._database.write() as connection:
            if not away:
                check_thawed(connection, self._workload)
            before = read_alias(connection, self._workload).adapter
            now = self._database.now()
            moved = move_alias(connection, self._workload, self._alias, adapter, now)
            if adapter is not None:
                approve(connection, self._workload, adapter, now)
            if away and before is not None:
                approve(connection, self._workload, before, None)
            if request_id is not None:
                answer_request(connection, self._workload, request_id, "done", {"from": before, "to": adapter}, now)
            return moved
