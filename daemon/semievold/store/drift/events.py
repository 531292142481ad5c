"""What is known of drift: how far was looked, what the detectors hold, and the events, one a shift.

Owns the tables `drift_*`; the pseudo-labels and labels are read alone. Invariant: detectors, position and events move
in one transaction, so that each query is weighed once however often the process dies, and what was weighed against a
reference that was meanwhile replaced is thrown away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, Row, RowMapping

from semievol.examples.json_values import mended_text
from semievold.errors import StateConflict
from semievold.round_states import RoundState
from semievold.store.database import Database, chunks
from semievold.store.review.items import chosen_for_review
from semievold.store.tables import drift_detectors, drift_events, drift_positions, examples, pseudo_labels, rounds

MAX_REASON = 200
MAX_ALSO = 50
_COLUMNS = (
    *pseudo_labels.c["query_id", "created_at", "answer", "entropy", "confidence", "adapter", "neighbours"],
    pseudo_labels.c.query["category"].as_string().label("category"),
    *pseudo_labels.c["topic", "partition", "offset"],
)


class Position(NamedTuple):
    """The pseudo-label and the label that were looked at last, and under which reference."""

    arming: int
    query_at: float
    query_id: str
    label_at: float
    label_id: str


class Answered(NamedTuple):
    """What the detectors see of a pseudo-label."""

    query_id: str
    created_at: float
    answer: str | None
    entropy: float
    confidence: float
    adapter: str | None
    neighbours: Sequence[tuple[str, float]]
    category: str | None
    topic: str | None
    partition: int | None
    offset: int | None


class Asked(NamedTuple):
    """Where a query stands in its topic."""

    topic: str | None
    partition: int | None
    offset: int | None


class Truth(NamedTuple):
    """A label of a query that was answered earlier, beside the answer."""

    query_id: str
    updated_at: float
    answered: Answered


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a detector raised."""

    kind: str
    category: str | None
    adapter: str | None
    action: str
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DriftEvent:
    """One shift. `also`: alarms that came while it was open; closed by whoever set a new reference."""

    number: int
    kind: str
    category: str | None
    adapter: str | None
    actions: Sequence[str]
    evidence: Mapping[str, Any]
    also: Sequence[Mapping[str, Any]]
    at: float
    closed_at: float | None
    closed_by: str | None


class DriftStore:
    """The drift of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    # --- what is looked at --------------------------------------------------------------------------------------

    def answered(self, after: Position, limit: int, to: float) -> list[Answered]:
        """The next pseudo-labels made before `to`, UTC seconds; oldest first."""
        until_then = pseudo_labels.c.created_at < to
        with self._database.read() as connection:
            rows = connection.execute(self._after(after, limit, *_COLUMNS).where(until_then)).all()
        return [Answered(*row) for row in rows]

    def asked(self, after: Position, limit: int) -> list[Asked]:
        """Where the queries of the next pseudo-labels stand, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(self._after(after, limit, *pseudo_labels.c["topic", "partition", "offset"])).all()
        return [Asked(*row) for row in rows]

    def _after(self, after: Position, limit: int, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
        c = pseudo_labels.c
        later = sa.or_(c.created_at > after.query_at, (c.created_at == after.query_at) & (c.query_id > after.query_id))
        mine = sa.select(*columns).where(c.workload == self._workload, c.created_at >= after.query_at, later)
        return mine.order_by(c.created_at, c.query_id).limit(limit)

    def newest(self, count: int, until: Answered | None = None) -> list[Answered]:
        """The newest pseudo-labels, newest first; with `until`, from that one back."""
        c = pseudo_labels.c
        until_then: sa.ColumnElement[bool] = sa.true()
        if until is not None:
            same = (c.created_at == until.created_at) & (c.query_id <= until.query_id)
            until_then = (c.created_at <= until.created_at) & sa.or_(c.created_at < until.created_at, same)
        statement = sa.select(*_COLUMNS).where(c.workload == self._workload, until_then)
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(c.created_at.desc(), c.query_id.desc()).limit(count))
            return [Answered(*row) for row in rows]

    def truths(self, after: Position, to: float, limit: int) -> list[Truth]:
        """The next labels, oldest first, that are new since, came before `to` and whose query was answered before they
        came; none that people were asked for because the model is unsure: they say nothing of how often it is right.
        """
        e, p = examples.c, pseudo_labels.c
        later = sa.or_(e.updated_at > after.label_at, (e.updated_at == after.label_at) & (e.id > after.label_id))
        statement = (
            sa.select(e.id, e.updated_at, *_COLUMNS)
            .join_from(examples, pseudo_labels, (p.workload == e.workload) & (p.query_id == e.id))
            .where(
                e.workload == self._workload,
                e.updated_at >= after.label_at,
                later,
                e.updated_at < to,
                e.created_at == e.updated_at,  # a label that is changed is no new one
                e.retracted.is_(False),
                p.created_at <= e.created_at,
                e.id.not_in(chosen_for_review(self._workload)),
            )
            .order_by(e.updated_at, e.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [Truth(row[0], row[1], Answered(*row[2:])) for row in connection.execute(statement)]

    def examples(self, ids: Collection[str]) -> dict[str, tuple[str | None, str]]:
        """{example id: its category and its answer} of those that there are."""
        found: dict[str, tuple[str | None, str]] = {}
        with self._database.read() as connection:
            for some in chunks(sorted(ids)):
                columns = sa.select(*examples.c["id", "category", "answer"])
                mine = columns.where(examples.c.workload == self._workload, examples.c.id.in_(some))
                found.update((row.id, (row.category, row.answer)) for row in connection.execute(mine))
        return found

    # --- what is known ------------------------------------------------------------------------------------------

    def position(self) -> Position:
        """Where to go on; at the first time from now on."""
        with self._database.read() as connection:
            row = self._position(connection)
        if row is not None:
            return Position(row.arming, row.query_at, row.query_id, row.label_at, row.label_id)
        now = self._database.now()
        begun = Position(1, now, "", now, "")
        with self._database.write() as connection:
            values = {"workload": self._workload, **begun._asdict(), "summary": {}}
            self._database.insert_new(connection, drift_positions, [values], drift_positions.c.workload)
        return begun

    def detectors(self) -> dict[str, dict[str, Any]]:
        """{name: state}."""
        columns = sa.select(*drift_detectors.c["name", "state"])
        with self._database.read() as connection:
            rows = connection.execute(columns.where(drift_detectors.c.workload == self._workload)).all()
        return {row.name: row.state for row in rows}

    def summary(self) -> dict[str, Any]:
        """What is known of accuracy; empty before it was looked at."""
        with self._database.read() as connection:
            row = self._position(connection)
        return {} if row is None else dict(row.summary)

    def advance(
        self,
        before: Position,
        after: Position,
        states: Mapping[str, Mapping[str, Any]],
        gone: Collection[str],
        alarms: Sequence[Alarm],
        summary: Mapping[str, Any] | None = None,
    ) -> bool:
        """Keep what was weighed; False where somebody set another reference meanwhile, or looked as well.

        summary: None: it stays what it was.
        """
        p = drift_positions.c
        with self._database.write() as connection:
            moved = connection.execute(
                sa.update(drift_positions)
                .where(p.workload == self._workload, p.arming == before.arming)
                .where(p.query_at == before.query_at, p.query_id == before.query_id)
                .where(p.label_at == before.label_at, p.label_id == before.label_id)
                .values(**after._asdict(), **({} if summary is None else {"summary": dict(summary)}))
            )
            if not moved.rowcount:
                return False
            rows = [{"workload": self._workload, "name": name, "state": dict(each)} for name, each in states.items()]
            self._database.upsert(connection, drift_detectors, rows, ("state",))
            self._forget(connection, gone)
            for alarm in alarms:
                self._raise(connection, alarm)
        return True

    # --- events -------------------------------------------------------------------------------------------------

    def events(self, newest: int = 100) -> list[DriftEvent]:
        """Newest first."""
        with self._database.read() as connection:
            newest_first = self._events().order_by(drift_events.c.number.desc()).limit(newest)
            rows = connection.execute(newest_first).mappings().all()
        return [_event(row) for row in rows]

    def event(self, number: int) -> DriftEvent:
        """Raises:
        StateConflict: there is none of that number.
        """
        with self._database.read() as connection:
            row = connection.execute(self._events().where(drift_events.c.number == number)).mappings().first()
        if row is None:
            raise StateConflict(f"there is no drift event {number}; `semievol drift list` shows them")
        return _event(row)

    def open_event(self) -> DriftEvent | None:
        """The shift for which nobody has set a new reference yet."""
        with self._database.read() as connection:
            return self._open(connection)

    def counts(self) -> dict[str, int]:
        """{kind: events so far}."""
        e = drift_events.c
        statement = sa.select(e.kind, sa.func.count()).where(e.workload == self._workload).group_by(e.kind)
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(statement)}

    def holds(self) -> str | None:
        """Why a candidate needs a person's word; None: no open event holds promotions."""
        found = self.open_event()
        if found is None or "hold" not in found.actions:
            return None
        return f"drift event {found.number} ({found.kind}) holds promotions (drift.action)"

    def asks_for_round(self) -> str | None:
        """Why a round should start: an open event asks for one, and none has begun since; None: nothing does."""
        found = self.open_event()
        if found is None or "trigger" not in found.actions:
            return None
        begun = sa.select(rounds.c.number).where(rounds.c.workload == self._workload, rounds.c.created_at >= found.at)
        with self._database.read() as connection:
            if connection.execute(begun.limit(1)).first() is not None:
                return None
        return f"drift event {found.number} ({found.kind})"

    def rearm(self, by: str) -> DriftEvent | None:
        """What comes from now on is the reference; the event that this closes, where one was open."""
        now = self._database.now()
        with self._database.write() as connection:
            return self._rearm(connection, by, now)

    def rearm_after_round(self) -> DriftEvent | None:
        """The same, where a round that began after the open event has settled."""
        r = rounds.c
        with self._database.read() as connection:
            if self._open(connection) is None:
                return None
        with self._database.write() as connection:
            found = self._open(connection)
            if found is None:
                return None
            settled = (r.state == RoundState.SETTLED.value) & (r.created_at >= found.at)
            number = connection.execute(
                sa.select(sa.func.max(r.number)).where(r.workload == self._workload, settled)
            ).scalar()
            if number is None:
                return None
            return self._rearm(connection, f"round {number}", self._database.now())

    # --- inside -------------------------------------------------------------------------------------------------

    def _position(self, connection: Connection) -> Row[Any] | None:
        mine = sa.select(drift_positions).where(drift_positions.c.workload == self._workload)
        return connection.execute(mine).first()

    def _events(self) -> sa.Select[Any]:
        return sa.select(drift_events).where(drift_events.c.workload == self._workload)

    def _open(self, connection: Connection) -> DriftEvent | None:
        row = connection.execute(self._events().where(drift_events.c.closed_at.is_(None))).mappings().first()
        return None if row is None else _event(row)

    def _raise(self, connection: Connection, alarm: Alarm) -> None:
        """Of one shift there is one event: what is alarmed while it is open belongs to it."""
        e, now = drift_events.c, self._database.now()
        found = self._open(connection)
        if found is None:
            last = sa.select(sa.func.max(e.number)).where(e.workload == self._workload)
            number = (connection.execute(last).scalar() or 0) + 1
            values = {"kind": alarm.kind, "category": alarm.category, "adapter": alarm.adapter}
            connection.execute(
                sa.insert(drift_events).values(
                    workload=self._workload,
                    number=number,
                    **values,
                    actions=[alarm.action],
                    evidence=dict(alarm.evidence),
                    also=[],
                    at=now,
                )
            )
            return
        names = ("statistic", "alarm_line", "queries", "said")
        said = {name: alarm.evidence[name] for name in names if name in alarm.evidence}
        more = {"kind": alarm.kind, "category": alarm.category, "adapter": alarm.adapter, "at": now, **said}
        connection.execute(
            sa.update(drift_events)
            .where(e.workload == self._workload, e.number == found.number)
            .values(also=[*found.also, more][:MAX_ALSO], actions=sorted({*found.actions, alarm.action}))
        )

    def _forget(self, connection: Connection, names: Collection[str]) -> None:
        d = drift_detectors.c
        for some in chunks(sorted(names)):
            connection.execute(sa.delete(drift_detectors).where(d.workload == self._workload, d.name.in_(some)))

    def _rearm(self, connection: Connection, by: str, now: float) -> DriftEvent | None:
        found, e, p = self._open(connection), drift_events.c, drift_positions.c
        mine = (e.workload == self._workload) & e.closed_at.is_(None)
        reason = mended_text(by)[:MAX_REASON]
        connection.execute(sa.update(drift_events).where(mine).values(closed_at=now, closed_by=reason))
        connection.execute(sa.delete(drift_detectors).where(drift_detectors.c.workload == self._workload))
        # What came before is not looked at again.
        anew = {"arming": p.arming + 1, "query_at": now, "query_id": "", "label_at": now, "label_id": "", "summary": {}}
        connection.execute(sa.update(drift_positions).where(p.workload == self._workload).values(**anew))
        return found


def _event(row: RowMapping) -> DriftEvent:
    return DriftEvent(**{name: value for name, value in row.items() if name != "workload"})
