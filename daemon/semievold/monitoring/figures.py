"""What the gauges of the state show, read by statements that go along an index to the little that they need.

Reads alone. What is made of the numbers is in `semievold.monitoring.state_metrics`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from semievold.round_states import ENDED, RoundState
from semievold.store.database import Database
from semievold.store.labels.tally import LabelTally
from semievold.store.tables import adapters, aliases, examples, operator_requests, pseudo_labels, round_events, rounds

_COUNT = sa.func.count()
_ENDED = [state.value for state in ENDED]


@dataclass(frozen=True, slots=True)
class Figures:
    """The state at one moment. Times are UTC seconds; None: there is no such thing yet.

    labelled, unparsed, unpublished: pseudo-labels, those without an answer, and those whose prediction is due.
    open_since: when the open round came into its present state.
    step_s: seconds that the newest round spent in each state that it has left.
    pool, selected: of the newest round that chose its rows.
    labels_missing: what its certificate lacks; None: it has none, or no number can be named.
    breaker: what its collapse breaker measured, of the newest round that was measured; tripped: the measures for which
        the open round stands still.
    gate, gate_round: what the newest round that met its gate saw there, and its number.
    canary: of the open round (`rounds.canary`), while it is in it; else empty.
    watch: what was found of the open round's version on live queries; empty without.
    """

    training: int
    holdout: int
    last_label_at: float | None
    last_pseudo_label_at: float | None
    labelled: int
    unparsed: int
    unpublished: int
    rounds: Mapping[str, int]
    open_round: int | None
    open_state: RoundState | None
    open_since: float | None
    last_outcome: RoundState | None
    last_ended_at: float | None
    step_s: Mapping[str, float]
    pool: int | None
    selected: int | None
    labels_missing: int | None
    breaker: Mapping[str, Any]
    tripped: Collection[str]
    gate: Mapping[str, Any]
    gate_round: int | None
    canary: Mapping[str, Any]
    watch: Mapping[str, Any]
    adapters: Mapping[str, int]
    alias_moved_at: float | None
    requests_pending: int


class FigureStore:
    """The figures of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload
        self._tally = LabelTally(database, workload)

    def read(self) -> Figures:
        """Blocking; a dozen short statements.

        Raises:
            TransientStoreError: the state is busy or away.
        """
        with self._database.read() as connection:
            return Figures(**self._of_labels(connection), **self._of_rounds(connection))

    def _of_labels(self, connection: Connection) -> dict[str, Any]:
        def one(statement: sa.Select[Any]) -> Any:
            return connection.execute(statement).scalar()

        e, p = examples.c, pseudo_labels.c
        tally = self._tally.read(connection)
        live = self._of(examples, _COUNT).where(e.retracted.is_(False))
        return {
            "training": one(live.where(e.holdout.is_(False))),
            "holdout": one(live.where(e.holdout.is_(True))),
            "last_label_at": one(self._of(examples, sa.func.max(e.updated_at))),
            "last_pseudo_label_at": one(self._of(pseudo_labels, sa.func.max(p.created_at))),
            "labelled": tally.stored,
            "unparsed": tally.unparsed,
            "unpublished": one(self._of(pseudo_labels, _COUNT).where(p.published.is_(False))),
            "alias_moved_at": one(self._of(aliases, sa.func.nullif(sa.func.max(aliases.c.updated_at), 0.0))),
            "requests_pending": one(self._of(operator_requests, _COUNT).where(operator_requests.c.state == "pending")),
        }

    def _of_rounds(self, connection: Connection) -> dict[str, Any]:
        r = rounds.c
        pool, selected = (r.snapshot[name].as_integer() for name in ("pool", "selected"))
        newest = self._newest(connection, sa.true())
        opened = self._newest(connection, r.state.not_in(_ENDED), r.state, r.updated_at, r.canary, r.watch)
        ended = self._newest(connection, r.state.in_(_ENDED), r.state, r.updated_at)
        missing = r.snapshot[("certificate", "missing")].as_integer()
        chose = self._newest(connection, pool.is_not(None), pool, selected, missing)
        measured = self._newest(
            connection, r.breaker[("measures", "depth")].as_string().is_not(None), r.breaker, r.state
        )
        stopped = measured is not None and measured[2] == RoundState.PLANNED.value
        met = self._newest(connection, r.evaluation["candidate_accuracy"].as_float().is_not(None), r.evaluation)
        return {
            "rounds": self._by_state(connection, rounds),
            "open_round": opened and opened[0],
            "open_state": opened and RoundState(opened[1]),
            "open_since": opened and opened[2],
            "last_outcome": ended and RoundState(ended[1]),
            "last_ended_at": ended and ended[2],
            "step_s": {} if newest is None else self._steps(connection, newest[0]),
            "pool": chose and chose[1],
            "selected": chose and chose[2],
            "labels_missing": chose and chose[3],
            "breaker": {} if measured is None else measured[1]["measures"],
            "tripped": measured[1]["breaches"] if measured is not None and stopped else (),
            "gate": {} if met is None else met[1],
            "gate_round": met and met[0],
            "canary": (opened and opened[1] == RoundState.CANARY.value and opened[3]) or {},
            "watch": (opened and opened[4]) or {},
            "adapters": self._by_state(connection, adapters),
        }

    def _of(self, table: sa.Table, column: Any) -> sa.Select[Any]:
        return sa.select(column).select_from(table).where(table.c.workload == self._workload)

    def _newest(
        self, connection: Connection, condition: sa.ColumnElement[bool], *columns: Any
    ) -> tuple[Any, ...] | None:
        """Number and columns of the newest round that meets the condition."""
        statement = sa.select(rounds.c.number, *columns).where(rounds.c.workload == self._workload, condition)
        row = connection.execute(statement.order_by(rounds.c.number.desc()).limit(1)).first()
        return None if row is None else tuple(row)

    def _by_state(self, connection: Connection, table: sa.Table) -> dict[str, int]:
        statement = sa.select(table.c.state, _COUNT).where(table.c.workload == self._workload).group_by(table.c.state)
        return {row[0]: row[1] for row in connection.execute(statement)}

    def _steps(self, connection: Connection, number: int) -> dict[str, float]:
        e = round_events.c
        moves = connection.execute(
            sa.select(e.to_state, e.at).where(e.workload == self._workload, e.number == number).order_by(e.id)
        ).all()
        seconds: dict[str, float] = {}
        for before, after in pairwise(moves):
            seconds[before.to_state] = seconds.get(before.to_state, 0.0) + max(0.0, after.at - before.at)
        return seconds
