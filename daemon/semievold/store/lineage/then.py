"""The state as a round saw it: its pool in the revisions of then, its examples, and how many rounds came before it.

Reads alone: these stand in for the stores of today, so that what a round did can be done again without being written.
Invariant: what is gone since (retention, a retraction) is left out, and can be counted by whoever compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import RowMapping

from semievol.types import Example, PseudoLabel, Query
from semievold.errors import StateConflict
from semievold.round_states import RoundState
from semievold.store.database import Database, chunks
from semievold.store.examples import ExampleStore
from semievold.store.feedback import FeedbackStore, Word
from semievold.store.labels.rows import readable_labels
from semievold.store.lineage.walk import LineageStore
from semievold.store.pseudo_labels import PoolRow, PseudoLabelStore
from semievold.store.rounds import Membership, RoundStore
from semievold.store.stores import Stores
from semievold.store.tables import (
    examples,
    feedback,
    pseudo_label_history,
    pseudo_labels,
    round_events,
    round_members,
    rounds,
)

T = TypeVar("T")
_OLDER = ("answer", "entropy", "agreement", "adapter", "neighbours", "candidates")
"""What the history keeps of a label."""


@dataclass(frozen=True, slots=True)
class Then:
    """stores: of that time; members: the verdict of the round on each of its pool; example_ids: of its mix."""

    stores: Stores
    members: Mapping[str, Membership]
    example_ids: frozenset[str]


def state_of(stores: Stores, workload: str, number: int) -> Then:
    """What a round saw when it chose.

    Raises:
        StateConflict: the state does not know that any more.
    """
    roles = stores.lineage.examples_of(number)
    if not roles:
        raise StateConflict(f"round {number} kept no list of its examples: it chose none, or before schema 0011")
    taken_at = next(
        event["at"] for event in stores.rounds.events(number) if event["to_state"] == RoundState.SNAPSHOTTED
    )
    members = {member.query_id: member for member in _members(stores.database, workload, number)}
    if any(member.revision is None for member in members.values()):
        raise StateConflict(f"round {number} kept no revisions of its pool: it chose before schema 0011")
    mine = frozenset(id_ for id_, role in roles.items() if role == "training")
    calibration = frozenset(roles) - mine
    then = replace(
        stores,
        pseudo_labels=_PoolOfThen(stores.database, workload, members),
        examples=_ExamplesOfThen(stores.database, workload, mine, calibration, taken_at),
        rounds=_RoundsOfThen(stores.database, workload, number),
        lineage=_LineageOfThen(stores.database, workload, number, taken_at),
        feedback=_WordsOfThen(stores.database, workload, stores.examples, taken_at),
    )
    return Then(then, members, mine)


def _members(database: Database, workload: str, number: int) -> list[Membership]:
    m = round_members.c
    columns = m["query_id", "selected", "reason", "answer", "consensus", "revision", "depth"]
    mine = (m.workload == workload) & (m.number == number)
    with database.read() as connection:
        return [Membership(**row) for row in connection.execute(sa.select(*columns).where(mine)).mappings()]


class _PoolOfThen(PseudoLabelStore):
    """The pool of one round: each query in the revision that the round saw."""

    def __init__(self, database: Database, workload: str, members: Mapping[str, Membership]) -> None:
        super().__init__(database, workload)
        self._members = members

    def pool(self, limit: int | None = None) -> list[PoolRow]:
        seen = self._seen(sorted(self._members))
        rows = [PoolRow(*(row[name] for name in ("query_id", *PoolRow._fields[1:]))) for row in seen.values()]
        return sorted(rows, key=lambda row: (-row.created_at, row.id))[:limit]

    def load(self, ids: Sequence[str]) -> list[PseudoLabel]:
        found = dict(readable_labels(self._seen(ids).values()))
        return [found[query_id] for query_id in ids if query_id in found]

    def asked(self, ids: Sequence[str], of: Callable[[Query], T]) -> dict[str, T]:
        return super().asked([id_ for id_ in ids if id_ in self._members], of)

    def _seen(self, ids: Sequence[str]) -> dict[str, RowMapping]:
        """{query id: columns of its label, as the round saw it}; what is gone is left out."""
        p, h = pseudo_labels.c, pseudo_label_history.c
        both = (p.workload == h.workload) & (p.query_id == h.query_id)
        older = [h[name] for name in (*_OLDER, "revision")]
        fixed = p["query_id", "query", "confidence", "justified", "created_at"]
        past = sa.select(*fixed, *older).select_from(pseudo_labels.join(pseudo_label_history, both))
        found: dict[str, RowMapping] = {}
        wanted = {id_: self._members[id_].revision for id_ in ids if id_ in self._members}
        with self._database.read() as connection:
            for some in chunks(list(wanted)):
                mine = (p.workload == self.workload) & p.query_id.in_(some)
                present = sa.select(*fixed, *(p[name] for name in (*_OLDER, "revision"))).where(mine)
                for statement in (present, past.where(mine)):
                    for row in connection.execute(statement).mappings():
                        if row["revision"] == wanted[row["query_id"]] and row["neighbours"] is not None:
                            found[row["query_id"]] = row
        return found


class _ExamplesOfThen(ExampleStore):
    """The examples of one round's mix, with the content of today; held out is what was there when it chose."""

    def __init__(
        self, database: Database, workload: str, mine: frozenset[str], calibration: frozenset[str], taken_at: float
    ) -> None:
        super().__init__(database, workload)
        self._ids = mine
        self._calibration_ids = calibration
        self._taken_at = taken_at

    def training(self, among: Sequence[str] | None = None) -> list[Example]:
        wanted = self._ids if among is None else self._ids.intersection(among)
        return [each for each in self._select(sa.true()) if each.id in wanted]

    def holdout(self) -> list[Example]:
        return self._select(self._held(), examples.c.created_at <= self._taken_at)

    def calibration(self) -> list[Example]:
        return [each for each in self._select(sa.true()) if each.id in self._calibration_ids]


class _RoundsOfThen(RoundStore):
    """The rounds, up to one."""

    def __init__(self, database: Database, workload: str, number: int) -> None:
        super().__init__(database, workload)
        self._number = number

    def evolved(self) -> int:
        promoted = [RoundState.PROMOTED.value, RoundState.SETTLED.value]
        before = (rounds.c.workload == self._workload) & (rounds.c.number < self._number)
        statement = sa.select(sa.func.count()).where(before, rounds.c.kind == "evolve", rounds.c.state.in_(promoted))
        with self._database.read() as connection:
            return int(connection.execute(statement).scalar_one())


class _LineageOfThen(LineageStore):
    """The lineage; in quarantine is what was there when the round chose."""

    def __init__(self, database: Database, workload: str, number: int, taken_at: float) -> None:
        super().__init__(database, workload)
        self._number = number
        self._taken_at = taken_at

    def quarantined(self) -> dict[str, set[str | None]]:
        r, e = rounds.c, round_events.c
        rolled_back_by_then = sa.exists().where(
            e.workload == r.workload,
            e.number == r.number,
            e.to_state == RoundState.ROLLED_BACK.value,
            e.at <= self._taken_at,
        )
        return self._quarantined((r.number < self._number) & rolled_back_by_then)


class _WordsOfThen(FeedbackStore):
    """What clients had said when the round chose, to questions to which no operator had said anything by then."""

    def __init__(self, database: Database, workload: str, kept: ExampleStore, taken_at: float) -> None:
        super().__init__(database, workload, kept)
        self._taken_at = taken_at

    def open_words(self) -> dict[str, list[Word]]:
        return self._open_words(feedback.c.created_at <= self._taken_at, examples.c.created_at <= self._taken_at)
