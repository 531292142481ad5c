"""The alias in the database: which adapter version the stable model name stands for.

A workload has one alias; under another name (`workload.alias` was changed) it goes on standing for what it stood for.
Beside the version that serves it may name a canary, with the share of the clients that this one answers.
Invariant: an alias moves only together with the adapters' states, inside the caller's transaction, and every move, of
the canary too, raises `generation`, over all names that it had, so that a reader can tell a newer truth from an older
one. `updated_at` is when the alias itself moved last; 0 in a row that a canary alone began.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, insert, null, select, update

from semievold.errors import StateConflict
from semievold.store.adapters import DELETED, approve, deleted_text
from semievold.store.database import Database
from semievold.store.freezes import check_thawed
from semievold.store.requests import answer_request
from semievold.store.tables import adapters, aliases


@dataclass(frozen=True, slots=True)
class Canary:
    """A version on trial.

    share: of the clients that it answers, above 0 and at most 1.
    stage: the place of that share among the round's, from 0.
    salt: 32 hex digits, the same for all stages: whom a small share takes, a larger one takes too.
    """

    adapter: str
    share: float
    stage: int
    salt: str

    def takes(self, client: str) -> bool:
        """Whether it answers this client; every process that knows the canary says the same."""
        key = bytes.fromhex(self.salt)
        digest = hashlib.blake2b(client.encode(errors="surrogatepass"), key=key, digest_size=8).digest()
        return int.from_bytes(digest) < self.share * 2**64


@dataclass(frozen=True, slots=True)
class AliasState:
    """What the alias points at; adapter None is the base model."""

    adapter: str | None = None
    previous: str | None = None
    generation: int = 0
    canary: Canary | None = None

    @property
    def promoted(self) -> bool:
        """Whether anything ever was; `generation` does not tell, for canaries raise it too."""
        return self.adapter is not None or self.previous is not None


def read_alias(connection: Connection, workload: str) -> AliasState:
    """The alias as it was last moved, under whichever name; one that never moved points at the base model."""
    row = connection.execute(
        select(*aliases.c["adapter", "previous", "generation", "canary"])
        .where(aliases.c.workload == workload)
        .order_by(aliases.c.generation.desc())
        .limit(1)
    ).first()
    if row is None:
        return AliasState()
    canary = None if row.canary is None else Canary(**row.canary)
    return AliasState(row.adapter, row.previous, row.generation, canary)


def move_alias(connection: Connection, workload: str, alias: str, adapter: str | None, at: float) -> AliasState:
    """Point the alias at `adapter` alone and update the adapters' states: serving, previous, retired."""
    before = read_alias(connection, workload)
    after = AliasState(adapter, before.adapter, before.generation + 1)
    _write(connection, workload, alias, after, at)

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


def set_canary(connection: Connection, workload: str, alias: str, canary: Canary) -> None:
    """Let the canary answer its share from now on; what serves stays what it is."""
    before = read_alias(connection, workload)
    after = AliasState(before.adapter, before.previous, before.generation + 1, canary)
    _write(connection, workload, alias, after, None)


def end_canary(connection: Connection, workload: str) -> None:
    """What serves answers everybody again; nothing, where there is no canary."""
    before = read_alias(connection, workload)
    if before.canary is not None:
        mine = (aliases.c.workload == workload, aliases.c.generation == before.generation)
        values = {"canary": null(), "generation": before.generation + 1}
        connection.execute(update(aliases).where(*mine).values(**values))


def _write(connection: Connection, workload: str, alias: str, state: AliasState, moved_at: float | None) -> None:
    values: dict[str, Any] = {
        "adapter": state.adapter,
        "previous": state.previous,
        "generation": state.generation,
        "canary": null() if state.canary is None else asdict(state.canary),
    }
    if moved_at is not None:
        values["updated_at"] = moved_at
    mine = (aliases.c.workload == workload, aliases.c.alias == alias)
    if connection.execute(update(aliases).where(*mine).values(**values)).rowcount == 0:
        connection.execute(insert(aliases).values(**{"updated_at": 0.0, **values}, workload=workload, alias=alias))


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
            StateConflict: rounds are frozen, or the version's directory was deleted meanwhile.
        """
        with self._database.write() as connection:
            if not away:
                check_thawed(connection, self._workload)
            mine = (adapters.c.workload == self._workload, adapters.c.name == adapter)
            if connection.execute(select(adapters.c.state).where(*mine)).scalar() == DELETED:
                raise StateConflict(deleted_text(adapter))
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
