"""Rounds in the database: each transition is one transaction that checks the state it leaves.

Owns rounds, their events and members, and the promotion, which moves alias, adapters and round together.
Invariant: at most one round of a workload is open, and its state is never skipped or repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, and_, func, insert, select, update

from semievol.examples.json_values import mended_text
from semievold.errors import StateConflict
from semievold.round_states import ENDED, UNDECIDED, RoundKind, RoundState, allowed
from semievold.store.adapters import approve
from semievold.store.aliases import end_canary, move_alias, read_alias
from semievold.store.database import MAX_INTEGER, Database
from semievold.store.freezes import check_thawed, write_freeze
from semievold.store.lineage.retractions import check_clean
from semievold.store.lineage.walk import Role, write_round_examples
from semievold.store.outcomes import StoredOutcome, outcomes_of, read_outcomes, write_outcomes
from semievold.store.tables import adapters, round_events, round_members, rounds

RECENT = 50
"""Among so many evolve rounds what was learned of who is right is looked for."""


@dataclass(frozen=True, slots=True)
class Round:
    """One row of `rounds`."""

    number: int
    kind: RoundKind
    state: RoundState
    reason: str | None
    trigger: str
    options: Mapping[str, Any]
    seed: int
    incumbent: str | None
    adapter: str | None
    snapshot: Mapping[str, Any] | None
    training: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    attestation: Mapping[str, Any] | None
    attempts: int
    created_at: float
    updated_at: float
    unclean: str | None = None
    canary: Mapping[str, Any] | None = None
    watch: Mapping[str, Any] | None = None
    breaker: Mapping[str, Any] | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def name(self) -> str:
        """`r0007`: how the round is named in directories and adapter names."""
        return f"r{self.number:04d}"


@dataclass(frozen=True, slots=True)
class Membership:
    """Whether a round selected a pseudo-label, and why not when it did not.

    answer: what the round took it for, which the consensus may have changed.
    consensus: the share of that answer; None: there was no consensus.
    revision, depth: of the pseudo-label that the round saw; None: not recorded.
    """

    query_id: str
    selected: bool
    reason: str | None
    answer: str | None = None
    consensus: float | None = None
    revision: int | None = None
    depth: int | None = None


Also = Callable[[Connection], object]
"""What a move of a round does besides, in the same transaction."""


def _round(row: RowMapping) -> Round:
    values = {key: value for key, value in row.items() if key != "workload"}
    values["state"] = RoundState(values["state"])
    return Round(**values)


class RoundStore:
    """The rounds of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    def _mine(self, number: int) -> Any:
        return and_(rounds.c.workload == self._workload, rounds.c.number == number)

    def _newest(self, *what: Any) -> Select[Any]:
        """Of the newest round alone, however many there were: only that one can be open."""
        return select(*what).where(rounds.c.workload == self._workload).order_by(rounds.c.number.desc()).limit(1)

    def plan(
        self, kind: RoundKind, trigger: str, seed: int, incumbent: str | None, options: Mapping[str, Any]
    ) -> Round:
        """Open the next round.

        Raises:
            StateConflict: a round is open already.
        """
        now = self._database.now()
        with self._database.write() as connection:
            last = connection.execute(self._newest(rounds.c.number, rounds.c.state)).first()
            if last is not None and RoundState(last.state) not in ENDED:
                raise StateConflict(f"round {last.number} is still open; cancel it or wait until it ends")
            number = 0 if last is None else last.number + 1
            connection.execute(
                insert(rounds).values(
                    workload=self._workload,
                    number=number,
                    kind=kind,
                    state=RoundState.PLANNED.value,
                    trigger=trigger,
                    options=dict(options),
                    seed=seed,
                    incumbent=incumbent,
                    attempts=0,
                    created_at=now,
                    updated_at=now,
                )
            )
            self._event(connection, number, None, RoundState.PLANNED, trigger, now)
            return _round(connection.execute(select(rounds).where(self._mine(number))).mappings().one())

    def get(self, number: int) -> Round | None:
        if not 0 <= number <= MAX_INTEGER:
            return None
        with self._database.read() as connection:
            row = connection.execute(select(rounds).where(self._mine(number))).mappings().first()
        return None if row is None else _round(row)

    def open(self) -> Round | None:
        """The round that has not ended, if there is one: no other than the newest."""
        with self._database.read() as connection:
            row = connection.execute(self._newest(rounds)).mappings().first()
        return None if row is None or RoundState(row["state"]) in ENDED else _round(row)

    def all(self, limit: int = 1000, *, first: int = 0) -> list[Round]:
        """Newest first, down to the number `first`."""
        mine = (rounds.c.workload == self._workload, rounds.c.number >= first)
        statement = select(rounds).where(*mine).order_by(rounds.c.number.desc()).limit(limit)
        with self._database.read() as connection:
            return [_round(row) for row in connection.execute(statement).mappings()]

    def warm_ended(self) -> bool:
        """A warm round has been decided, either way."""
        decided = [state.value for state in ENDED - UNDECIDED]
        statement = select(rounds.c.number).where(
            rounds.c.workload == self._workload, rounds.c.kind == "warm", rounds.c.state.in_(decided)
        )
        with self._database.read() as connection:
            return connection.execute(statement.limit(1)).scalar() is not None

    def evolved(self) -> int:
        """How many evolve rounds were promoted and have not been taken back, nor a label from which they descend."""
        promoted = [RoundState.PROMOTED.value, RoundState.SETTLED.value]
        statement = (
            select(func.count())
            .where(rounds.c.workload == self._workload, rounds.c.kind == "evolve", rounds.c.state.in_(promoted))
            .where(rounds.c.unclean.is_(None))
        )
        with self._database.read() as connection:
            return int(connection.execute(statement).scalar_one())

    def newest(self) -> tuple[int, str] | None:
        """Number and state of the newest round, whatever its kind: as long as they stay, no round has moved on."""
        statement = select(rounds.c.number, rounds.c.state).where(rounds.c.workload == self._workload)
        with self._database.read() as connection:
            row = connection.execute(statement.order_by(rounds.c.number.desc()).limit(1)).one_or_none()
        return None if row is None else (int(row.number), str(row.state))

    def confidence(self) -> tuple[int, dict[str, Any]] | None:
        """What the newest round that learned one has learned of who is right, and its number; None: none has."""
        statement = (
            select(rounds.c.number, rounds.c.snapshot)
            .where(rounds.c.workload == self._workload, rounds.c.kind == "evolve", rounds.c.snapshot.is_not(None))
            .order_by(rounds.c.number.desc())
            .limit(RECENT)
        )
        with self._database.read() as connection:
            for number, snapshot in connection.execute(statement):
                if (found := (snapshot or {}).get("confidence")) is not None:
                    return int(number), dict(found)
        return None

    def begin_attempt(self, number: int) -> int:
        """Count one more start of the current state; returns the count."""
        with self._database.write() as connection:
            connection.execute(update(rounds).where(self._mine(number)).values(attempts=rounds.c.attempts + 1))
            return int(connection.execute(select(rounds.c.attempts).where(self._mine(number))).scalar_one())

    def forget_attempt(self, number: int, state: RoundState) -> None:
        """Take back the last count of `begin_attempt`, unless the round has moved on.

        Also by a process that has lost the lease meanwhile: it says of itself that it did not die.
        """
        counted = and_(self._mine(number), rounds.c.state == state.value, rounds.c.attempts > 0)
        with self._database.statement() as connection:
            connection.execute(update(rounds).where(counted).values(attempts=rounds.c.attempts - 1))

    def transition(
        self,
        number: int,
        current: RoundState,
        following: RoundState,
        detail: str | None = None,
        *,
        members: Sequence[Membership] = (),
        taken: Mapping[str, Role] | None = None,
        outcomes: Mapping[str, Sequence[StoredOutcome]] | None = None,
        also: Also | None = None,
        **columns: Any,
    ) -> Round:
        """Move the round and write what the move made durable, in one transaction; `also` is done in it first.

        Raises:
            StateConflict: the round is not in `current`, or the move is not in the state machine.
            TransientError: some of what it is made from (`taken`, `members`) was taken back meanwhile.
        """
        with self._database.write() as connection:
            if taken is not None:
                learned = [each.query_id for each in members if each.selected or each.consensus is not None]
                check_clean(connection, self._workload, taken, learned, columns.get("snapshot") or {})
            if also is not None:
                also(connection)
            moved = self._move(connection, number, current, following, detail, columns)
            if members:
                connection.execute(insert(round_members), [self._member_row(number, member) for member in members])
            write_round_examples(connection, self._workload, number, taken or {})
            write_outcomes(self._database, connection, self._workload, number, outcomes or {})
            return moved

    def stop(self, number: int, state: RoundState, reason: str, breaker: Mapping[str, Any]) -> Round:
        """Freeze rounds for what the breaker found in this one, which stays where it is; together.

        Raises:
            StateConflict: the round is not in `state` any more.
        """
        with self._database.write() as connection:
            mine = and_(self._mine(number), rounds.c.state == state.value)
            if connection.execute(update(rounds).where(mine).values(breaker=dict(breaker))).rowcount != 1:
                raise StateConflict(f"round {number} is not in state {state}; another process moved it")
            now = self._database.now()
            write_freeze(self._database, connection, self._workload, reason, now)
            self._event(connection, number, state, state, reason, now)
            return _round(connection.execute(select(rounds).where(self._mine(number))).mappings().one())

    def trained(self, number: int, training: Mapping[str, Any], adapter: Mapping[str, Any]) -> Round:
        """Register the candidate adapter and move the round to `trained`, together."""
        now = self._database.now()
        with self._database.write() as connection:
            connection.execute(
                insert(adapters).values(
                    workload=self._workload,
                    round=number,
                    state="candidate",
                    unclean=select(rounds.c.unclean).where(self._mine(number)).scalar_subquery(),
                    created_at=now,
                    updated_at=now,
                    **adapter,
                )
            )
            return self._move(
                connection,
                number,
                RoundState.TRAINING,
                RoundState.TRAINED,
                str(adapter["name"]),
                {"training": dict(training), "adapter": adapter["name"]},
            )

    def note(
        self,
        number: int,
        state: RoundState,
        evaluation: Mapping[str, Any],
        outcomes: Mapping[str, Sequence[StoredOutcome]],
    ) -> Round:
        """Keep what the gate has seen meanwhile; the round stays where it is.

        An outcome takes the place of the one that the same model had for the same example: no label counts twice.

        Raises:
            StateConflict: the round is not in `state` any more.
        """
        with self._database.write() as connection:
            mine = and_(self._mine(number), rounds.c.state == state.value)
            if connection.execute(update(rounds).where(mine).values(evaluation=dict(evaluation))).rowcount != 1:
                raise StateConflict(f"round {number} is not in state {state}; another process moved it")
            write_outcomes(self._database, connection, self._workload, number, outcomes)
            return _round(connection.execute(select(rounds).where(self._mine(number))).mappings().one())

    def promote(
        self, number: int, alias: str, adapter: str, generation: int, current: RoundState = RoundState.ATTESTED
    ) -> Round:
        """Move alias, adapters and round together: after this commit, and not before, the candidate serves.

        Raises:
            StateConflict: the alias is not at `generation` any more: somebody moved it meanwhile; or rounds are frozen;
                or a label was taken back from which the candidate descends.
        """
        with self._database.write() as connection:
            if read_alias(connection, self._workload).generation != generation:
                raise StateConflict(f"the alias {alias} was moved while round {number} was being promoted")
            check_thawed(connection, self._workload)
            which = (adapters.c.workload == self._workload) & (adapters.c.name == adapter)
            if (label := connection.execute(select(adapters.c.unclean).where(which)).scalar()) is not None:
                raise StateConflict(f"adapter {adapter} descends from the label {label!r}, which was taken back")
            move_alias(connection, self._workload, alias, adapter, self._database.now())
            return self._move(connection, number, current, RoundState.PROMOTED, adapter, {})

    def roll_back(self, number: int, alias: str, to_adapter: str | None, reason: str, generation: int) -> Round:
        """Point the alias back and end the round, together.

        Raises:
            StateConflict: the alias is not at `generation` any more: somebody moved it meanwhile.
        """
        with self._database.write() as connection:
            if read_alias(connection, self._workload).generation != generation:
                raise StateConflict(f"the alias {alias} was moved while round {number} was being rolled back")
            left = move_alias(connection, self._workload, alias, to_adapter, self._database.now()).previous
            if left is not None:
                approve(connection, self._workload, left, None)
            return self._move(
                connection, number, RoundState.PROMOTED, RoundState.ROLLED_BACK, reason, {"reason": reason}
            )

    def approve(self, number: int) -> Round:
        """A person's word for the version that the round proposes, or proposed.

        Raises:
            StateConflict: it proposes none yet, or its version was rejected or taken back.
        """
        with self._database.write() as connection:
            found = connection.execute(select(rounds).where(self._mine(number))).mappings().first()
            if found is None:
                raise StateConflict(f"there is no round {number}; `semievol rounds list` shows them")
            round_ = _round(found)
            if round_.adapter is None or (round_.ended and round_.state is not RoundState.SETTLED):
                raise StateConflict(f"round {number} is {round_.state}; there is no version to approve")
            now = self._database.now()
            approve(connection, self._workload, round_.adapter, now)
            self._event(connection, number, round_.state, round_.state, "approved by a person", now)
            return round_

    def leave(
        self,
        number: int,
        current: RoundState,
        exit_state: RoundState,
        reason: str,
        *,
        also: Also | None = None,
        **columns: Any,
    ) -> Round:
        """End a round off the main path; its candidate adapter, if any, becomes `rejected`, and answers nobody more."""
        now = self._database.now()
        with self._database.write() as connection:
            outcomes: Mapping[str, Sequence[StoredOutcome]] = columns.pop("outcomes", {})
            kept = {"reason": mended_text(reason), **columns}
            moved = self._move(connection, number, current, exit_state, reason, kept)
            if current is RoundState.CANARY:
                end_canary(connection, self._workload)
            if also is not None:
                also(connection)
            write_outcomes(self._database, connection, self._workload, number, outcomes)
            connection.execute(
                update(adapters)
                .where(
                    adapters.c.workload == self._workload, adapters.c.round == number, adapters.c.state == "candidate"
                )
                .values(state="rejected", updated_at=now)
            )
            return moved

    def events(self, number: int) -> list[dict[str, Any]]:
        statement = (
            select(*round_events.c["from_state", "to_state", "detail", "at"])
            .where(round_events.c.workload == self._workload, round_events.c.number == number)
            .order_by(round_events.c.id)
        )
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    def memberships(self, query_id: str) -> list[dict[str, Any]]:
        """The rounds whose pool held this pseudo-label, and what they decided."""
        statement = (
            select(*round_members.c["number", "selected", "reason", "answer", "consensus", "revision", "depth"])
            .where(round_members.c.workload == self._workload, round_members.c.query_id == query_id)
            .order_by(round_members.c.number)
        )
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    def members(self, number: int) -> dict[str, bool]:
        """Query id -> selected, for the whole pool of a round."""
        statement = select(*round_members.c["query_id", "selected"]).where(
            round_members.c.workload == self._workload, round_members.c.number == number
        )
        with self._database.read() as connection:
            return {row.query_id: row.selected for row in connection.execute(statement)}

    def outcomes_as_candidate(self, adapter: str, settings: str | None = None) -> dict[str, StoredOutcome]:
        """What `adapter` answered in its own round, by example id; nothing, if that was under other `settings`.

        `settings` None: under whichever.
        """
        with self._database.read() as connection:
            return outcomes_of(connection, self._workload, adapter, settings, ("candidate",))

    def outcomes_of(self, adapter: str, settings: str) -> dict[str, StoredOutcome]:
        """What `adapter` answered in any round and role under these settings, by example id; the newest counts."""
        with self._database.read() as connection:
            return outcomes_of(connection, self._workload, adapter, settings)

    def outcomes(self, number: int) -> dict[str, dict[str, StoredOutcome]]:
        """{role: {example id: what the model in that role answered in this round}}."""
        with self._database.read() as connection:
            return read_outcomes(connection, self._workload, number)

    def _move(
        self,
        connection: Connection,
        number: int,
        current: RoundState,
        following: RoundState,
        detail: str | None,
        columns: Mapping[str, Any],
    ) -> Round:
        if not allowed(current, following):
            raise StateConflict(f"round {number}: {current} -> {following} is not a move of the state machine")
        now = self._database.now()
        result = connection.execute(
            update(rounds)
            .where(self._mine(number), rounds.c.state == current.value)
            .values(state=following.value, attempts=0, updated_at=now, **columns)
        )
        if result.rowcount != 1:
            raise StateConflict(f"round {number} is not in state {current}; another process moved it")
        self._event(connection, number, current, following, detail, now)
        return _round(connection.execute(select(rounds).where(self._mine(number))).mappings().one())

    def _event(
        self,
        connection: Connection,
        number: int,
        current: RoundState | None,
        following: RoundState,
        detail: str | None,
        at: float,
    ) -> None:
        connection.execute(
            insert(round_events).values(
                workload=self._workload,
                number=number,
                from_state=None if current is None else current.value,
                to_state=following.value,
                detail=None if detail is None else mended_text(detail),
                at=at,
            )
        )

    def _member_row(self, number: int, member: Membership) -> dict[str, Any]:
        return {"workload": self._workload, "number": number, **asdict(member)}
