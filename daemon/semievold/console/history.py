"""What happened so far, read along indexes: moves of the alias, what rounds measured, how sure answers were.

Reads alone. Of many pseudo-labels a few of each stretch of time are looked at, so that a page costs the same whatever
there is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from semievold.round_states import RoundState
from semievold.store.database import Database
from semievold.store.tables import aliases, operator_requests, pseudo_labels, round_events, rounds

STRETCHES = 60
"""Of a chart over time."""
OF_EACH = 40
"""Pseudo-labels that are looked at of one stretch: the first ones."""
MOST_MOVES = 200
BY_HAND = ("promote", "rollback", "leave_unclean")


@dataclass(frozen=True, slots=True)
class Move:
    """The alias moved: by the gate, by the watch, or by a person's request. `round`: whose, where there is one."""

    at: float
    kind: Literal["promoted", "rolled_back", "by_hand"]
    detail: str
    round: int | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a round's gate measured on the held-out labels, and what became of the round."""

    number: int
    at: float
    state: str
    incumbent: float
    candidate: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """The means of one stretch of time, over `count` pseudo-labels. `at`: its middle."""

    at: float
    count: int
    entropy: float | None
    agreement: float


class History:
    """Of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    def serving_since(self) -> float | None:
        """When the alias moved last; None: it never has."""
        statement = sa.select(sa.func.nullif(sa.func.max(aliases.c.updated_at), 0.0)).where(
            aliases.c.workload == self._workload
        )
        with self._database.read() as connection:
            at = connection.execute(statement).scalar()
        return None if at is None else float(at)

    def moves(self) -> list[Move]:
        """The newest ones, oldest first."""
        e, o = round_events.c, operator_requests.c
        states = (RoundState.PROMOTED.value, RoundState.ROLLED_BACK.value)
        by_rounds = (
            sa.select(*e["at", "to_state", "detail", "number"])
            .where(e.workload == self._workload, e.to_state.in_(states), e.from_state.is_distinct_from(e.to_state))
            .order_by(e.id.desc())
            .limit(MOST_MOVES)
        )
        by_people = (
            sa.select(*o["updated_at", "kind", "result"])
            .where(o.workload == self._workload, o.state == "done", o.kind.in_(BY_HAND))
            .order_by(o.id.desc())
            .limit(MOST_MOVES)
        )
        found: list[Move] = []
        with self._database.read() as connection:
            for row in connection.execute(by_rounds):
                found.append(Move(row.at, row.to_state, row.detail or "", row.number))
            for row in connection.execute(by_people):
                to = (row.result or {}).get("to") or "the base model"
                found.append(Move(row.updated_at, "by_hand", f"{row.kind.replace('_', ' ')} to {to}"))
        return sorted(found, key=lambda move: move.at)

    def measured(self) -> list[Measured]:
        """The newest rounds that met their gate, oldest first."""
        e, r = round_events.c, rounds.c
        met = sa.func.min(e.at).label("at")
        accuracies = [r.evaluation[f"{role}_accuracy"].as_float() for role in ("incumbent", "candidate")]
        statement = (
            sa.select(r.number, met, r.state, *accuracies)
            .join_from(rounds, round_events, (e.workload == r.workload) & (e.number == r.number))
            .where(r.workload == self._workload, accuracies[1].is_not(None))
            .where(e.to_state.not_in([state.value for state in _BEFORE_THE_GATE]))
            .group_by(r.workload, r.number)
            .order_by(r.number.desc())
            .limit(MOST_MOVES)
        )
        with self._database.read() as connection:
            return [Measured(*row) for row in connection.execute(statement)][::-1]

    def labelled_between(self) -> tuple[float, float] | None:
        """When the first and the newest pseudo-label that are kept were made; None: there is none."""
        c = pseudo_labels.c
        ends = [
            sa.select(c.created_at).where(c.workload == self._workload).order_by(order).limit(1)
            for order in (c.created_at, c.created_at.desc())
        ]
        with self._database.read() as connection:
            first, last = (connection.execute(end).scalar() for end in ends)
        return None if first is None or last is None else (first, last)

    def sureness(self, start: float, end: float) -> list[Stretch]:
        """Entropy and agreement of the answers in a span of UTC seconds; stretches without an answer are left out."""
        c, width = pseudo_labels.c, max(1e-6, (end - start) / STRETCHES)
        parts = []
        for n in range(STRETCHES):
            low, high = start + n * width, start + (n + 1) * width
            up_to = c.created_at <= end if n == STRETCHES - 1 else c.created_at < high
            some = (
                sa.select(sa.literal(n).label("stretch"), c.entropy, c.agreement)
                .where(c.workload == self._workload, c.created_at >= low, up_to)
                .order_by(c.created_at)
                .limit(OF_EACH)
                .subquery()
            )
            parts.append(sa.select(some))
        found: dict[int, list[tuple[float, float]]] = defaultdict(list)
        with self._database.read() as connection:
            for row in connection.execute(sa.union_all(*parts)):
                found[row.stretch].append((row.entropy, row.agreement))
        return [_stretch(start + (n + 0.5) * width, rows) for n, rows in sorted(found.items())]


_BEFORE_THE_GATE = (
    RoundState.PLANNED,
    RoundState.SNAPSHOTTED,
    RoundState.TRAINING,
    RoundState.TRAINED,
    RoundState.LOADED,
)


def _stretch(at: float, rows: list[tuple[float, float]]) -> Stretch:
    entropies = [entropy for entropy, _ in rows if math.isfinite(entropy)]
    mean = sum(entropies) / len(entropies) if entropies else None
    return Stretch(at, len(rows), mean, sum(agreement for _, agreement in rows) / len(rows))
