"""Canaries in the database: the stages of a round's version on trial, and how the answers of both versions went.

Owns `rounds.canary` and the rows of `canary_answers`. Whoever answers clients writes what it counted, as totals since
its start, so that a write that is repeated counts nothing twice. Invariant: the alias and the round's record of its
stage change together, in one transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import Connection, delete, func, insert, select, update

from semievold.errors import StateConflict
from semievold.round_states import RoundState
from semievold.store.aliases import Canary, read_alias, set_canary
from semievold.store.database import Database
from semievold.store.freezes import check_thawed
from semievold.store.requests import answer_request
from semievold.store.rounds import Round, RoundStore
from semievold.store.tables import adapters, canary_answers, round_events, rounds

Version = Literal["canary", "incumbent"]
Source = Literal["gateway", "intake"]
SOURCES: tuple[Source, ...] = ("gateway", "intake")


@dataclass(frozen=True, slots=True)
class Tally:
    """How answers went: failed ones are among `answers`; slow ones of `timed`, unparsed ones of `read`."""

    answers: int = 0
    failed: int = 0
    timed: int = 0
    slow: int = 0
    read: int = 0
    unparsed: int = 0

    def __add__(self, other: Tally) -> Tally:
        mine, theirs = asdict(self), asdict(other)
        return Tally(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True, slots=True)
class Counted:
    """What one process counted since its start of one version, in one stage (0 for the incumbent), from one source."""

    version: Version
    stage: int
    source: Source
    tally: Tally


class CanaryStore:
    """The canaries of one workload."""

    def __init__(self, database: Database, workload: str, alias: str, moves: RoundStore) -> None:
        self._database = database
        self._workload = workload
        self._alias = alias
        self._moves = moves

    def begin(self, round_: Round, shares: Sequence[float], generation: int) -> Round:
        """Give the first share of the clients to the round's version.

        Raises:
            StateConflict: the alias is not at `generation` any more; or rounds are frozen; or a label was taken back
                from which the version descends.
        """
        now = self._database.now()
        canary = Canary(str(round_.adapter), shares[0], 0, secrets.token_hex(16))
        record = {"shares": list(shares), "stage": 0, "begun_at": now, "stage_at": now}

        def also(connection: Connection) -> None:
            self._check(connection, canary.adapter, generation)
            # What was counted of earlier ones stands in their rounds.
            connection.execute(delete(canary_answers).where(canary_answers.c.workload == self._workload))
            set_canary(connection, self._workload, self._alias, canary)

        said = f"{in_percent(shares[0])} of the clients"
        return self._moves.transition(round_.number, round_.state, RoundState.CANARY, said, also=also, canary=record)

    def next_stage(self, number: int, generation: int) -> None:
        """Give the next share of the clients to the version on trial.

        Raises:
            StateConflict: as `begin`; or there is no further stage, or no canary.
        """
        now = self._database.now()
        with self._database.write() as connection:
            record = self._record(connection, number)
            before = read_alias(connection, self._workload).canary
            stage = int(record["stage"]) + 1
            if before is None or stage >= len(record["shares"]):
                raise StateConflict(f"round {number} has no further stage of its canary")
            self._check(connection, before.adapter, generation)
            canary = Canary(before.adapter, record["shares"][stage], stage, before.salt)
            set_canary(connection, self._workload, self._alias, canary)
            self._keep(connection, number, {**record, "stage": stage, "stage_at": now})
            self._event(connection, number, f"{in_percent(canary.share)} of the clients", now)

    def note(self, number: int, seen: Mapping[str, Any]) -> None:
        """Keep what was seen of the answers so far, beside the stages.

        Raises:
            StateConflict: the round is in its canary no longer.
        """
        with self._database.write() as connection:
            self._keep(connection, number, {**self._record(connection, number), **seen})

    def skip(self, number: int, request_id: int) -> None:
        """End the present stage at the next look, by an operator's hand; the request is answered with it.

        Raises:
            StateConflict: the round is not in its canary.
        """
        now = self._database.now()
        with self._database.write() as connection:
            record = self._record(connection, number)
            stage = int(record["stage"])
            self._keep(connection, number, {**record, "skip": stage})
            self._event(connection, number, f"stage {stage + 1} is ended by hand", now)
            answer_request(connection, self._workload, request_id, "done", {"round": number, "stage": stage + 1}, now)

    def roll_back(self, round_: Round, reason: str, request_id: int) -> Round:
        """The incumbent answers everybody again, and the round is over, by an operator's hand; the request is answered
        in the same transaction, so that no second leader rolls back more for it.

        Raises:
            StateConflict: the round is in its canary no longer.
        """

        def also(connection: Connection) -> None:
            serving = read_alias(connection, self._workload).adapter
            said = {"from": round_.adapter, "to": serving, "round": round_.number}
            answer_request(connection, self._workload, request_id, "done", said, self._database.now())

        return self._moves.leave(round_.number, RoundState.CANARY, RoundState.ROLLED_BACK, reason, also=also)

    # --- answers --------------------------------------------------------------------------------------------------

    def count(self, adapter: str, process: str, counted: Sequence[Counted]) -> None:
        """Keep what `process` counted since its start, with `adapter` as the canary."""
        names = ("answers", "failed", "timed", "slow", "read", "unparsed", "updated_at")
        rows = [
            {
                "workload": self._workload,
                "adapter": adapter,
                "process": process,
                "version": each.version,
                "stage": each.stage,
                "source": each.source,
                **asdict(each.tally),
                "updated_at": self._database.now(),
            }
            for each in counted
        ]
        with self._database.write() as connection:
            self._database.upsert(connection, canary_answers, rows, names)

    def counted(self, adapter: str) -> list[Counted]:
        """What all processes together counted with `adapter` as the canary."""
        c = canary_answers.c
        sums = [func.sum(c[name]).label(name) for name in Tally.__dataclass_fields__]
        statement = (
            select(c.version, c.stage, c.source, *sums)
            .where(c.workload == self._workload, c.adapter == adapter)
            .group_by(c.version, c.stage, c.source)
            .order_by(c.version, c.stage, c.source)
        )
        with self._database.read() as connection:
            return [
                Counted(
                    row["version"],
                    row["stage"],
                    row["source"],
                    Tally(**{name: int(row[name]) for name in Tally.__dataclass_fields__}),
                )
                for row in connection.execute(statement).mappings()
            ]

    # --- within a transaction -------------------------------------------------------------------------------------

    def _check(self, connection: Connection, adapter: str, generation: int) -> None:
        check_thawed(connection, self._workload)
        if read_alias(connection, self._workload).generation != generation:
            raise StateConflict(f"the alias {self._alias} was moved while a canary was on its way")
        which = (adapters.c.workload == self._workload) & (adapters.c.name == adapter)
        if (label := connection.execute(select(adapters.c.unclean).where(which)).scalar()) is not None:
            raise StateConflict(f"adapter {adapter} descends from the label {label!r}, which was taken back")

    def _record(self, connection: Connection, number: int) -> Mapping[str, Any]:
        mine = (rounds.c.workload == self._workload, rounds.c.number == number)
        row = connection.execute(select(rounds.c.state, rounds.c.canary).where(*mine)).first()
        if row is None or row.state != RoundState.CANARY.value:
            state = "not there" if row is None else row.state
            raise StateConflict(f"round {number} is {state}; only one in its canary has stages")
        found: Mapping[str, Any] = row.canary
        return found

    def _keep(self, connection: Connection, number: int, record: Mapping[str, Any]) -> None:
        mine = (rounds.c.workload == self._workload, rounds.c.number == number)
        connection.execute(update(rounds).where(*mine).values(canary=dict(record)))

    def _event(self, connection: Connection, number: int, detail: str, at: float) -> None:
        canary = RoundState.CANARY.value
        connection.execute(
            insert(round_events).values(
                workload=self._workload, number=number, from_state=canary, to_state=canary, detail=detail, at=at
            )
        )


def in_percent(share: float) -> str:
    """As people read it: 5 %."""
    return f"{100 * share:.3g} %"
