"""What clients said about queries that the intake has not answered yet: it waits here, and is never lost in silence.

Owns the table `waiting_feedback`. Invariant: as many of a client's words wait as are allowed, and each ends as joined,
refused or expired, which is told for as long again as it may have waited.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import sqlalchemy as sa

from semievold.store.database import Database
from semievold.store.tables import pseudo_labels, waiting_feedback

SHARE_OF_ONE = 10
"""One client has at most a tenth of the places."""


class Standing(StrEnum):
    """How it stands with a word; a closed set, for a metric."""

    PENDING = "pending"  # the intake has not answered the query
    JOINED = "joined"  # it is a record of the labels topic
    REFUSED = "refused"  # it cannot be: the reason says why
    EXPIRED = "expired"  # the query never came


class Waiting(NamedTuple):
    """A client's word.

    content, asked: of the query, as in `Captured`. against: `answer` is what the client says is wrong.
    """

    query_id: str
    client: str
    content: str
    asked: str
    answer: str
    against: bool
    standing: Standing = Standing.PENDING
    reason: str | None = None


class WaitingFeedback:
    """The waiting feedback of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    def add(self, word: Waiting, most: int) -> bool:
        """Let it wait, in place of what the client has said to the query before; False: there is no room.

        At most `most` wait, and of one client a tenth of that, one at least.
        """
        c, now = waiting_feedback.c, self._database.now()
        row = {
            "workload": self._workload,
            "query_id": word.query_id,
            "client": word.client,
            "content_hash": word.content,
            "asked": word.asked,
            "answer": word.answer,
            "against": word.against,
            "standing": Standing.PENDING.value,
            "reason": None,
            "created_at": now,
            "updated_at": now,
        }
        with self._database.write() as connection:
            pending = sa.select(sa.func.count()).where(self._mine(), c.standing == Standing.PENDING.value)
            others = ~((c.query_id == word.query_id) & (c.client == word.client))
            if connection.execute(pending.where(others)).scalar_one() >= most:
                return False
            theirs = connection.execute(pending.where(others, c.client == word.client)).scalar_one()
            if theirs >= max(1, most // SHARE_OF_ONE):
                return False
            update = ("content_hash", "asked", "answer", "against", "standing", "reason", "created_at", "updated_at")
            self._database.upsert(connection, waiting_feedback, [row], update)
        return True

    def get(self, query_id: str, client: str) -> Waiting | None:
        c = waiting_feedback.c
        return self._one(c.query_id == query_id, c.client == client)

    def said(self, client: str, asked: str) -> Waiting | None:
        """What the client says to a question, and that waits."""
        c = waiting_feedback.c
        return self._one(c.client == client, c.asked == asked, c.standing == Standing.PENDING.value)

    def due(self, most: int) -> list[Waiting]:
        """Those whose query is answered now, oldest first."""
        c, labels = waiting_feedback.c, pseudo_labels.c
        answered = (labels.workload == c.workload) & (labels.query_id == c.query_id)
        statement = (
            sa.select(waiting_feedback)
            .join(pseudo_labels, answered)
            .where(self._mine(), c.standing == Standing.PENDING.value)
            .order_by(c.created_at, c.query_id)
            .limit(most)
        )
        with self._database.read() as connection:
            return [_waiting(row) for row in connection.execute(statement).mappings()]

    def settle(self, words: Sequence[Waiting]) -> None:
        """They stand as they say now, unless the client has said something else meanwhile."""
        c, now = waiting_feedback.c, self._database.now()
        with self._database.write() as connection:
            for word in words:
                same = (c.query_id == word.query_id, c.client == word.client, c.answer == word.answer)
                statement = sa.update(waiting_feedback).where(self._mine(), *same, c.against.is_(word.against))
                connection.execute(statement.values(standing=word.standing.value, reason=word.reason, updated_at=now))

    def expire(self, wait_s: float) -> int:
        """How many have waited too long now; what ended as long ago is forgotten."""
        c, now = waiting_feedback.c, self._database.now()
        pending = c.standing == Standing.PENDING.value
        with self._database.write() as connection:
            connection.execute(sa.delete(waiting_feedback).where(self._mine(), ~pending, c.updated_at < now - wait_s))
            late = sa.update(waiting_feedback).where(self._mine(), pending, c.created_at < now - wait_s)
            done = connection.execute(late.values(standing=Standing.EXPIRED.value, updated_at=now))
        return done.rowcount

    def count(self) -> int:
        """How many wait."""
        pending = waiting_feedback.c.standing == Standing.PENDING.value
        statement = sa.select(sa.func.count()).where(self._mine(), pending)
        with self._database.read() as connection:
            return connection.execute(statement).scalar_one()

    def _one(self, *which: sa.ColumnElement[bool]) -> Waiting | None:
        statement = sa.select(waiting_feedback).where(self._mine(), *which).limit(1)
        with self._database.read() as connection:
            row = connection.execute(statement).mappings().first()
        return None if row is None else _waiting(row)

    def _mine(self) -> sa.ColumnElement[bool]:
        return waiting_feedback.c.workload == self._workload


def _waiting(row: sa.RowMapping) -> Waiting:
    return Waiting(
        row["query_id"],
        row["client"],
        row["content_hash"],
        row["asked"],
        row["answer"],
        row["against"],
        Standing(row["standing"]),
        row["reason"],
    )
