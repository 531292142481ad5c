"""Shadow pairs: live queries that both versions of a round answer, and what they answered.

Owns the table `shadow_pairs`, and `rounds.watch`, which says what was found by them. Invariants: a question is one pair
of a round, however often and under whichever ids it is asked; pairs that were answered stand in one order for ever, for
evidence may depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy import RowMapping

from semievol.examples.json_values import mended_text
from semievol.examples.near import near_key
from semievol.examples.records import query_to_json, stored_query
from semievol.types import Query
from semievold.errors import StateConflict
from semievold.round_states import ENDED, RoundState
from semievold.store.database import Database, chunks
from semievold.store.outcomes import StoredOutcome, write_outcomes
from semievold.store.tables import examples, pseudo_labels, rounds, shadow_pairs

Source = Literal["intake", "gateway"]
COMPARING = (RoundState.PROVING, RoundState.CANARY, RoundState.PROMOTED)
"""States in which the incumbent and the version of a round are both loaded, and compared."""
MOST_PAIRS = 20_000
"""With so many a round draws no more: nothing more is learned from them."""


class PairFate(StrEnum):
    """What became of a query that was drawn; a closed set, for a metric."""

    ANSWERED = "answered"
    TOO_MANY = "too_many"  # shadow.per_second
    BUSY = "busy"  # not answered within shadow.max_wait_s
    REFUSED = "refused"  # the engine takes it never, or it is too long


class Place(NamedTuple):
    """How far the pseudo-labels were looked at."""

    created_at: float
    query_id: str


class Waiting(NamedTuple):
    """A query that was drawn and not answered yet; `drawn_at`: UTC seconds."""

    key: str
    query: Query
    drawn_at: float


class Answered(NamedTuple):
    """What the versions answered, in the task's canonical form; None: it does not parse.

    differ: the answers do not mean the same, or one of them does not parse.
    """

    key: str
    incumbent: str | None
    candidate: str | None
    differ: bool


@dataclass(frozen=True, slots=True)
class ShadowPair:
    """A pair of a round; `place` is that in the order of its pairs, from 1; `key`: of its question (`near_key`)."""

    place: int
    key: str
    query: Query
    source: Source
    incumbent: str | None
    candidate: str | None
    differ: bool


class ShadowPairStore:
    """The shadow pairs of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    # --- drawing ------------------------------------------------------------------------------------------------

    def wanted(self) -> int | None:
        """The number of the round whose versions are compared now; None: there is none, or it has pairs enough."""
        r = rounds.c
        states = [state.value for state in COMPARING]
        statement = sa.select(r.number).where(r.workload == self._workload, r.state.in_(states))
        with self._database.read() as connection:
            number = connection.execute(statement.limit(1)).scalar()
        return None if number is None or self.full(number) else number

    def full(self, number: int) -> bool:
        """Whether a round has pairs enough."""
        return self.answered(number) >= MOST_PAIRS

    def newest(self) -> Place:
        """Where the pseudo-labels end now."""
        c = pseudo_labels.c
        statement = (
            sa.select(c.created_at, c.query_id)
            .where(c.workload == self._workload)
            .order_by(c.created_at.desc(), c.query_id.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            row = connection.execute(statement).first()
        return Place(0.0, "") if row is None else Place(*row)

    def labelled_after(self, place: Place, most: int) -> tuple[list[str], Place]:
        """Ids of the queries that were labelled after `place`, oldest first, and the place of the last one."""
        c = pseudo_labels.c
        later = sa.or_(
            c.created_at > place.created_at, (c.created_at == place.created_at) & (c.query_id > place.query_id)
        )
        statement = (
            sa.select(c.created_at, c.query_id)
            .where(c.workload == self._workload, later)
            .order_by(c.created_at, c.query_id)
            .limit(most)
        )
        with self._database.read() as connection:
            found = [Place(*row) for row in connection.execute(statement)]
        return [each.query_id for each in found], (found[-1] if found else place)

    def draw(self, number: int, queries: Sequence[Query], source: Source) -> int:
        """Have these answered by both versions of a round, unless their question was drawn for it before; how many."""
        now = self._database.now()
        rows = {
            (key := near_key(query)): {
                "workload": self._workload,
                "number": number,
                "key": key,
                "query_id": query.id,
                "query": query_to_json(query),
                "source": source,
                "drawn_at": now,
            }
            for query in queries
        }
        if not rows:
            return 0
        with self._database.write() as connection:
            return len(self._database.insert_new(connection, shadow_pairs, list(rows.values()), shadow_pairs.c.key))

    # --- answering ----------------------------------------------------------------------------------------------

    def waiting(self, number: int, most: int) -> list[Waiting]:
        """Those that are not answered, oldest first."""
        c = shadow_pairs.c
        statement = (
            sa.select(*c["key", "query_id", "query", "drawn_at"])
            .where(self._of(number), c.place.is_(None))
            .order_by(c.drawn_at, c.key)
            .limit(most)
        )
        with self._database.read() as connection:
            rows = connection.execute(statement).all()
        return [Waiting(row.key, stored_query(row.query, row.query_id), row.drawn_at) for row in rows]

    def keep(self, number: int, answered: Sequence[Answered], refused: Sequence[str] = ()) -> None:
        """Keep what both versions answered, in this order, behind what is there; one that has answers keeps them.

        `refused`: keys of those that no version will ever answer, which are deleted.
        """
        c = shadow_pairs.c
        with self._database.write() as connection:
            last = connection.execute(sa.select(sa.func.max(c.place)).where(self._of(number))).scalar() or 0
            waits = self._of(number) & c.place.is_(None) & (c.key == sa.bindparam("at"))
            for each in answered:
                changed = connection.execute(
                    sa.update(shadow_pairs)
                    .where(waits)
                    .values(
                        place=last + 1,
                        incumbent_answer=None if each.incumbent is None else mended_text(each.incumbent),
                        candidate_answer=None if each.candidate is None else mended_text(each.candidate),
                        differ=each.differ,
                    ),
                    {"at": each.key},
                ).rowcount
                last += changed
            if refused:
                connection.execute(
                    sa.delete(shadow_pairs).where(self._of(number), c.place.is_(None), c.key.in_(refused))
                )

    def drop(self, number: int, drawn_before: float) -> int:
        """Delete what was drawn earlier, UTC seconds, and is not answered; how many."""
        c = shadow_pairs.c
        late = self._of(number) & c.place.is_(None) & (c.drawn_at < drawn_before)
        with self._database.read() as connection:
            if connection.execute(sa.select(c.key).where(late).limit(1)).first() is None:
                return 0
        with self._database.write() as connection:
            return connection.execute(sa.delete(shadow_pairs).where(late)).rowcount

    def drop_of_others(self, number: int) -> None:
        """Delete what other rounds than this have left unanswered."""
        c = shadow_pairs.c
        with self._database.write() as connection:
            left = (c.workload == self._workload, c.number != number, c.place.is_(None))
            connection.execute(sa.delete(shadow_pairs).where(*left))

    def note(
        self, number: int, watch: Mapping[str, Any], outcomes: Mapping[str, Sequence[StoredOutcome]] | None = None
    ) -> None:
        """Keep what was found of the version that a round proposes, or promoted; the round stays where it is.

        Raises:
            StateConflict: the round has ended meanwhile.
        """
        r = rounds.c
        mine = (r.workload == self._workload, r.number == number, r.state.not_in([state.value for state in ENDED]))
        with self._database.write() as connection:
            if connection.execute(sa.update(rounds).where(*mine).values(watch=dict(watch))).rowcount != 1:
                raise StateConflict(f"round {number} has ended; another process moved it")
            write_outcomes(self._database, connection, self._workload, number, outcomes or {})

    # --- reading ------------------------------------------------------------------------------------------------

    def pairs(self, number: int, after: int = 0, most: int | None = None) -> list[ShadowPair]:
        """The pairs of a round behind place `after`, in their order."""
        c = shadow_pairs.c
        statement = sa.select(shadow_pairs).where(self._of(number), c.place > after).order_by(c.place).limit(most)
        with self._database.read() as connection:
            return [_pair(row) for row in connection.execute(statement).mappings()]

    def disagreements(self, number: int) -> list[ShadowPair]:
        """Pairs of a round whose answers differ and of which no label is known, in the order of their keys, which is
        none that anything is known of.
        """
        c = shadow_pairs.c
        truth = sa.exists().where(
            examples.c.workload == c.workload, examples.c.id == c.query_id, examples.c.retracted.is_(False)
        )
        statement = sa.select(shadow_pairs).where(self._of(number), c.differ.is_(True), ~truth).order_by(c.key)
        with self._database.read() as connection:
            return [_pair(row) for row in connection.execute(statement).mappings()]

    def among(self, number: int, query_ids: Sequence[str]) -> set[str]:
        """Those of the queries that are pairs of a round."""
        c = shadow_pairs.c
        found: set[str] = set()
        with self._database.read() as connection:
            for some in chunks(query_ids):
                statement = sa.select(c.query_id).where(self._of(number), c.place > 0, c.query_id.in_(some))
                found.update(connection.execute(statement).scalars())
        return found

    def answered(self, number: int) -> int:
        """How many pairs a round has."""
        with self._database.read() as connection:
            last = connection.execute(sa.select(sa.func.max(shadow_pairs.c.place)).where(self._of(number)))
            return last.scalar() or 0

    def unparsed(self, adapter: str | None, among: int, most: int) -> tuple[int, int]:
        """Of the newest `among` pseudo-labels those that a version made, at most `most`, and how many of these have no
        answer that parses.
        """
        c = pseudo_labels.c
        newest = (
            sa.select(c.adapter, c.answer, c.created_at)
            .where(c.workload == self._workload)
            .order_by(c.created_at.desc())
            .limit(among)
            .subquery()
        )
        mine = newest.c.adapter.is_(None) if adapter is None else newest.c.adapter == adapter
        last = sa.select(newest.c.answer).where(mine).order_by(newest.c.created_at.desc()).limit(most).subquery()
        counts = (sa.func.count(), sa.func.count().filter(last.c.answer.is_(None)))
        with self._database.read() as connection:
            row = connection.execute(sa.select(*counts).select_from(last)).one()
        return row[0], row[1]

    def _of(self, number: int) -> sa.ColumnElement[bool]:
        return (shadow_pairs.c.workload == self._workload) & (shadow_pairs.c.number == number)


def _pair(row: RowMapping | Mapping[str, Any]) -> ShadowPair:
    return ShadowPair(
        place=row["place"],
        key=row["key"],
        query=stored_query(row["query"], row["query_id"]),
        source=row["source"],
        incumbent=row["incumbent_answer"],
        candidate=row["candidate_answer"],
        differ=row["differ"],
    )
