"""What the gateways captured lately: which query an id stands for, before and after the intake has answered it.

Owns the table `captured`. Invariant: an id is one query's, whichever gateway was asked, and whoever asked first keeps
it; what an answer said is noted for that query alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from semievold.store.database import Database, chunks
from semievold.store.tables import captured, pseudo_labels

_REUSED = "!"
"""At the end of the column `client`: the id was seen with another question too. A client itself is hexadecimal."""


class Captured(NamedTuple):
    """A captured query.

    content: hash of the query (`query_hash`). asked: of what it asks (`asked_key`). client: who asked, a keyed hash.
    answer_id: of the answer, where the query has another id.
    served: the answer that the client got, as the task reads it; None: it has none there, or not yet.
    reused: the id was seen with another question too, so that alone it does not say which one is meant.
    """

    query_id: str
    content: str
    asked: str
    client: str
    answer_id: str | None = None
    served: str | None = None
    reused: bool = False


class CapturedStore:
    """The captured queries of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    def claim(self, query: Captured) -> str:
        """The hash of the query that has the id from now on: of this one, unless another came first.

        What is only claimed has no client in its row: nobody gets it by `get` before it is noted.
        """
        labels = pseudo_labels.c
        earlier = sa.select(labels.content_hash).where(
            labels.workload == self._workload, labels.query_id == query.query_id
        )
        with self._database.write() as connection:
            first = connection.execute(earlier).scalar()
            if first is None and not self._database.insert_new(
                connection, captured, [self._row(query._replace(client=""))], captured.c.query_id
            ):
                statement = sa.select(captured.c.content_hash).where(
                    self._mine(), captured.c.query_id == query.query_id
                )
                first = connection.execute(statement).scalar_one()
            if first not in (None, query.content):
                self._mark(connection, [(query.client, query.query_id)])
        return query.content if first is None else first

    def release(self, claims: Sequence[tuple[str, str]]) -> None:
        """Give ids back that were claimed for the query with this hash, and not captured."""
        c = captured.c
        mine = (c.query_id == sa.bindparam("at"), c.content_hash == sa.bindparam("of"), c.client == "")
        released = sa.delete(captured).where(self._mine(), *mine)
        with self._database.write() as connection:
            connection.execute(released, [{"at": query_id, "of": content} for query_id, content in claims])

    def mark(self, seen: Sequence[tuple[str, str]]) -> None:
        """Of these clients' ids: each was seen with another question than the one it was captured with."""
        with self._database.write() as connection:
            self._mark(connection, seen)

    def _mark(self, connection: sa.Connection, seen: Sequence[tuple[str, str]]) -> None:
        c = captured.c
        whose = (c.query_id == sa.bindparam("at"), c.client == sa.bindparam("of_client"))
        marked = sa.update(captured).where(self._mine(), *whose).values(client=c.client + _REUSED)
        connection.execute(marked, [{"at": query_id, "of_client": client} for client, query_id in seen])

    def note(self, queries: Sequence[Captured]) -> None:
        """Keep what is new of these, and what the clients were answered."""
        c = captured.c
        told = [
            {
                "at": each.query_id,
                "of": each.content,
                "to_id": each.answer_id,
                "to_served": each.served,
                "to_client": each.client,
            }
            for each in queries
        ]
        to_id, to_served = sa.bindparam("to_id", type_=sa.String), sa.bindparam("to_served", type_=sa.Text)
        update = (
            sa.update(captured)
            .where(self._mine(), c.query_id == sa.bindparam("at"), c.content_hash == sa.bindparam("of"))
            .values(
                answer_id=sa.func.coalesce(to_id, c.answer_id),
                served=sa.case(
                    (c.answer_id != to_id, to_served),  # another answer says its own
                    else_=sa.func.coalesce(to_served, c.served),
                ),
                client=sa.case((c.client == "", sa.bindparam("to_client", type_=sa.String)), else_=c.client),
            )
        )
        with self._database.write() as connection:
            for some in chunks(queries):
                self._database.insert_new(connection, captured, [self._row(each) for each in some], c.query_id)
            if told:
                connection.execute(update, told)

    def get(self, id_: str) -> Captured | None:
        """The query of an id, else that of an answer's id."""
        c = captured.c
        with self._database.read() as connection:
            for named in (c.query_id, c.answer_id):
                statement = (
                    sa.select(captured)
                    .where(self._mine(), named == id_, c.client != "")
                    .order_by(c.created_at)
                    .limit(1)
                )
                row = connection.execute(statement).mappings().first()
                if row is not None:
                    return Captured(
                        row["query_id"],
                        row["content_hash"],
                        row["asked"],
                        row["client"].removesuffix(_REUSED),
                        row["answer_id"],
                        row["served"],
                        row["client"].endswith(_REUSED),
                    )
        return None

    def forget(self, before: float) -> None:
        """Those that were captured before, UTC seconds."""
        with self._database.write() as connection:
            connection.execute(sa.delete(captured).where(self._mine(), captured.c.created_at < before))

    def _row(self, query: Captured) -> dict[str, object]:
        return {
            "workload": self._workload,
            "query_id": query.query_id,
            "content_hash": query.content,
            "asked": query.asked,
            "client": query.client,
            "answer_id": query.answer_id,
            "served": query.served,
            "created_at": self._database.now(),
        }

    def _mine(self) -> sa.ColumnElement[bool]:
        return captured.c.workload == self._workload
