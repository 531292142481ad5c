"""What people and clients say about one question that cannot all be true: once each, for a person to decide.

Owns the table `contradictions`, and what an item tells. Invariant: an item is made once for what is said by then; it is
settled when an operator's label of its question comes, whatever that says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from semievol.examples.records import query_to_json, said_once
from semievol.types import Query
from semievold.store.database import Database
from semievold.store.tables import contradictions, round_members

MOST_ANSWERS = 20
MOST_WORDS = 20
"""Of one answer, that an item names; the others are counted."""
MAX_ANSWER_CHARS = 1_000


class Claim(NamedTuple):
    """That an answer is right, or wrong (`against`).

    by: `label` (an operator, or the labels topic), `client` or `pseudo_label`. who: the label's id and source, the
    client's keyed hash, or the adapter. at: UTC seconds.
    """

    answer: str
    against: bool
    by: str
    who: dict[str, str | None]
    at: float


class Item(NamedTuple):
    """A contradiction that is to be published."""

    key: str
    query_id: str
    value: dict[str, Any]


class ContradictionStore:
    """The contradictions of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    def note_in(self, connection: Connection, asked: str, query: Query, claims: Sequence[Claim]) -> None:
        """Make an item of what is said, within a transaction, unless the same was said before."""
        said = sorted({(each.answer, each.against, each.by == "label") for each in claims})
        key = hashlib.blake2b(repr((asked, said)).encode(errors="surrogatepass"), digest_size=16).hexdigest()
        row = {
            "workload": self._workload,
            "key": key,
            "asked": asked,
            "query_id": query.id,
            "item": _item(query, claims),
            "published": False,
            "settled": False,
            "created_at": self._database.now(),
        }
        self._database.insert_new(connection, contradictions, [row], contradictions.c.key)

    def note(self, asked: str, query: Query, claims: Sequence[Claim]) -> None:
        """As `note_in`."""
        with self._database.write() as connection:
            self.note_in(connection, asked, query, claims)

    def settle_in(self, connection: Connection, asked: Sequence[str]) -> None:
        """An operator has said what is right, within a transaction."""
        c = contradictions.c
        which = (c.workload == self._workload, c.asked.in_(asked), c.settled.is_(False))
        connection.execute(sa.update(contradictions).where(*which).values(settled=True))

    def due(self, most: int) -> list[Item]:
        """Those that are not published, oldest first."""
        c = contradictions.c
        statement = (
            sa.select(*c["key", "query_id", "item"])
            .where(c.workload == self._workload, c.published.is_(False))
            .order_by(c.created_at, c.key)
            .limit(most)
        )
        with self._database.read() as connection:
            return [Item(*row) for row in connection.execute(statement)]

    def mark_published(self, items: Iterable[Item]) -> None:
        """They are in the review topic."""
        c = contradictions.c
        which = (c.workload == self._workload, c.key.in_([item.key for item in items]))
        with self._database.write() as connection:
            connection.execute(sa.update(contradictions).where(*which).values(published=True))

    def open(self, most: int | None = None) -> int:
        """How many nobody has decided; `most` ends the count there."""
        return self._count(most)

    def count_waiting(self, given_since: float, most: int | None = None) -> int:
        """How many `waiting` would give; `most` ends the count there."""
        return self._count(most, self._waits(given_since))

    def waiting(self, most: int, given_since: float = 0.0) -> list[Item]:
        """Those that nobody has decided, oldest first; without those to which a label was given after `given_since`
        (UTC seconds): it is on its way.
        """
        c = contradictions.c
        statement = (
            sa.select(*c["key", "query_id", "item"])
            .where(c.workload == self._workload, c.settled.is_(False))
            .where(self._waits(given_since))
            .order_by(c.created_at, c.key)
            .limit(most)
        )
        with self._database.read() as connection:
            return [Item(*row) for row in connection.execute(statement)]

    def get(self, key: str) -> Item | None:
        """The item, unless it is unknown or decided."""
        c = contradictions.c
        which = (c.workload == self._workload, c.key == key, c.settled.is_(False))
        with self._database.read() as connection:
            row = connection.execute(sa.select(*c["key", "query_id", "item"]).where(*which)).first()
        return None if row is None else Item(*row)

    def give(self, key: str, at: float | None) -> None:
        """A label of it is on its way since then, UTC seconds; None: it was taken back."""
        c = contradictions.c
        with self._database.write() as connection:
            which = (c.workload == self._workload, c.key == key)
            connection.execute(sa.update(contradictions).where(*which).values(given_at=at))

    def learned(self, ids: Sequence[str]) -> set[str]:
        """Those queries whose pseudo-label some round has selected: what a model was trained on."""
        m = round_members.c
        statement = sa.select(m.query_id).where(m.workload == self._workload, m.query_id.in_(ids), m.selected.is_(True))
        with self._database.read() as connection:
            return set(connection.execute(statement).scalars())

    def _waits(self, given_since: float) -> sa.ColumnElement[bool]:
        c = contradictions.c
        return c.given_at.is_(None) | (c.given_at < given_since)

    def _count(self, most: int | None, *conditions: sa.ColumnElement[bool]) -> int:
        c = contradictions.c
        found = sa.select(c.key).where(c.workload == self._workload, c.settled.is_(False), *conditions).limit(most)
        with self._database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(found.subquery())).scalar_one()


def _item(query: Query, claims: Sequence[Claim]) -> dict[str, Any]:
    """The record's fields beside its version: the query, and who says what of each answer, the oldest first."""
    fields = said_once(query, query_to_json(query))
    fields.pop("metadata", None)
    candidates: dict[str, dict[str, Any]] = {}
    for claim in sorted(claims, key=lambda claim: claim.at):
        if claim.answer not in candidates and len(candidates) == MOST_ANSWERS:
            continue
        answer = {"answer": claim.answer[:MAX_ANSWER_CHARS], "right": [], "wrong": [], "more": 0}
        told = candidates.setdefault(claim.answer, answer)
        words = told["wrong" if claim.against else "right"]
        if len(words) < MOST_WORDS:
            words.append({"by": claim.by, **claim.who, "at": claim.at})
        else:
            told["more"] += 1
    return {**fields, "purpose": "contradiction", "candidates": list(candidates.values())}
