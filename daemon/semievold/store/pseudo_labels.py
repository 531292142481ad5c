"""The pseudo-labels: exactly one per query, what explains it, and whether its prediction is published.

Owns the tables `pseudo_labels` and `pseudo_label_history`. Rounds read the pool here and put better labels back.
Invariants: the first durable label of a query id wins; only `replace` changes it, and keeps the old one. What is asked
often costs the same however many there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import pydantic_core
import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from semievol.errors import DataError
from semievol.examples.records import query_to_json, stored_query
from semievol.types import PseudoLabel, Query, value
from semievold.store.database import Database, chunks
from semievold.store.labels.rows import label_columns, label_of, readable_labels
from semievold.store.labels.tally import LabelTally
from semievold.store.tables import examples, pseudo_label_history, pseudo_labels

_HISTORY = ("answer", "entropy", "agreement", "adapter", "neighbours", "candidates")
_POOL_COLUMNS = tuple(
    pseudo_labels.c["query_id", "answer", "entropy", "agreement", "adapter", "created_at", "revision"]
)

T = TypeVar("T")
Place = tuple[str | None, int | None, int | None]
"""Topic, partition and offset of the stream record that asked for a label; None: no stream."""


@value
class NewLabel:
    """A pseudo-label on its way into the store, and the stream record that asked for it (None: no stream)."""

    label: PseudoLabel
    content_hash: str
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class StoredLabel:
    """A pseudo-label with its bookkeeping."""

    label: PseudoLabel
    content_hash: str
    topic: str | None
    partition: int | None
    offset: int | None
    revision: int
    published: bool
    created_at: float
    updated_at: float


class PoolRow(NamedTuple):
    """What selection and triggers need of a pseudo-label."""

    id: str
    answer: str | None
    entropy: float
    agreement: float
    adapter: str | None
    created_at: float
    revision: int = 1


class LabelCounts(NamedTuple):
    """How many queries are labelled, how many of them without a parsed answer, how many predictions are due."""

    total: int
    unparseable: int
    unpublished: int


@dataclass(frozen=True, slots=True)
class LabelWindow:
    """Means over the newest labels; None when there is none. Infinite entropies are left out of the mean."""

    count: int
    unparseable: int
    mean_entropy: float | None
    mean_agreement: float | None


def query_hash(query: Query) -> str:
    """32 hex digits over what is asked: the same id with another hash is another query under a used id."""
    turns = None if query.messages is None else [(turn.role, turn.content) for turn in query.messages]
    content = pydantic_core.to_json((query.question, query.options, turns))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class PseudoLabelStore:
    """The pseudo-labels of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self.workload = workload
        self._tally = LabelTally(database, workload)
        # Built once: the intake runs them for every batch.
        c = pseudo_labels.c
        self._hashes_of = sa.select(c.query_id, c.content_hash).where(self._these())
        self._publish_ids = sa.update(pseudo_labels).where(self._these()).values(published=True)

    # --- the intake's side --------------------------------------------------------------------------------------

    def known(self, ids: Sequence[str]) -> dict[str, str]:
        """{query id: content hash} of those that are labelled."""
        found: dict[str, str] = {}
        with self._database.read() as connection:
            for some in chunks(ids):
                found.update((row[0], row[1]) for row in connection.execute(self._hashes_of, {"ids": some}))
        return found

    def add(self, new: Sequence[NewLabel], published: Sequence[str] = ()) -> set[str]:
        """Store labels of queries that have none; the ids that were stored by this call.

        Marks earlier ones as `published` in the same transaction: a commit waits for the disk, so fewer are faster.
        """
        now = self._database.now()
        rows = {item.label.query.id: self._row(item, now) for item in reversed(new)}
        with self._database.write() as connection:
            self._mark_published(connection, published)
            added = self._database.insert_new(connection, pseudo_labels, list(rows.values()), pseudo_labels.c.query_id)
            self._tally.add(connection, [row for query_id, row in rows.items() if query_id in added])
        return added

    def unpublished(self, limit: int, older_than_s: float = 0.0, *, but_of: str | None = None) -> list[PseudoLabel]:
        """Labels whose prediction may not be in the predictions topic, oldest first; none of queries from `but_of`."""
        c = pseudo_labels.c
        elsewhere = sa.true() if but_of is None else c.topic.is_distinct_from(but_of)
        statement = (
            sa.select(pseudo_labels)
            .where(self._mine(), c.published.is_(False), c.created_at <= self._database.now() - older_than_s, elsewhere)
            .order_by(c.created_at, c.query_id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [label_of(row, question_needed=False) for row in connection.execute(statement).mappings()]

    def unpublished_of(self, new: Sequence[NewLabel]) -> list[PseudoLabel]:
        """The stored labels that came from exactly these records and whose prediction may not be published."""
        places = {item.label.query.id: (item.topic, item.partition, item.offset) for item in new}
        found = self.unpublished_places(list(places))
        return [label for place, label in found.items() if places[label.query.id] == place]

    def unpublished_places(self, ids: Sequence[str]) -> dict[Place, PseudoLabel]:
        """Of these queries the labels whose prediction may not be published, by the record that each came from."""
        c = pseudo_labels.c
        found: dict[Place, PseudoLabel] = {}
        with self._database.read() as connection:
            for some in chunks(ids):
                statement = sa.select(pseudo_labels).where(self._these(some), c.published.is_(False))
                for row in connection.execute(statement).mappings():
                    found[row["topic"], row["partition"], row["offset"]] = label_of(row, question_needed=False)
        return found

    def mark_published(self, ids: Iterable[str]) -> None:
        """The predictions of these queries are durable in the predictions topic."""
        with self._database.write() as connection:
            self._mark_published(connection, list(ids))

    def mark_published_below(self, topic: str, next_offsets: Mapping[int, int]) -> None:
        """The predictions of the queries below these offsets of the topic are durable, whether they were marked or not.

        For streams that commit an offset together with what the records below it cause.
        """
        c = pseudo_labels.c
        mine = self._mine() & c.published.is_(False) & (c.topic == topic)
        with self._database.write() as connection:
            for partition, offset in next_offsets.items():
                passed = mine & (c.partition == partition) & (c.offset < offset)
                connection.execute(sa.update(pseudo_labels).where(passed).values(published=True))

    def rows(self, ids: Sequence[str]) -> dict[str, PoolRow]:
        """The present labels of those ids that have one, whether their truth is known or not."""
        found: dict[str, PoolRow] = {}
        with self._database.read() as connection:
            for some in chunks(ids):
                statement = sa.select(*_POOL_COLUMNS).where(self._these(some))
                found.update((row[0], PoolRow(*row)) for row in connection.execute(statement))
        return found

    # --- the rounds' side ---------------------------------------------------------------------------------------

    def get(self, query_id: str) -> StoredLabel | None:
        statement = sa.select(pseudo_labels).where(self._mine(), pseudo_labels.c.query_id == query_id)
        with self._database.read() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else _stored(row)

    def history(self, query_id: str) -> list[dict[str, Any]]:
        """The labels that the query had before its present one, oldest first."""
        c = pseudo_label_history.c
        statement = (
            sa.select(*c["revision", "answer", "entropy", "agreement", "adapter", "neighbours", "created_at"])
            .where(c.workload == self.workload, c.query_id == query_id)
            .order_by(c.revision)
        )
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    def pool(self, limit: int | None = None) -> list[PoolRow]:
        """The labels of queries whose true answer is not known, newest first, at most `limit`."""
        c = pseudo_labels.c
        truth = sa.exists().where(
            examples.c.workload == c.workload, examples.c.id == c.query_id, examples.c.retracted.is_(False)
        )
        statement = (
            sa.select(*_POOL_COLUMNS).where(self._mine(), ~truth).order_by(c.created_at.desc(), c.query_id).limit(limit)
        )
        with self._database.read() as connection:
            return [PoolRow(*row) for row in connection.execute(statement)]

    def asked(self, ids: Sequence[str], of: Callable[[Query], T]) -> dict[str, T]:
        """{query id: what `of` says of the query}; unknown ids, and rows that cannot be read, are left out."""
        found: dict[str, T] = {}
        columns = pseudo_labels.c["query_id", "query"]
        with self._database.read() as connection:
            for some in chunks(ids):
                statement = sa.select(*columns).where(self._these(some))
                for row in connection.execute(statement):
                    with suppress(DataError, TypeError):
                        found[row.query_id] = of(stored_query(row.query, row.query_id))
        return found

    def load(self, ids: Sequence[str]) -> list[PseudoLabel]:
        """The full labels in the order of `ids`; unknown ids, and rows that cannot be read, are left out."""
        found: dict[str, PseudoLabel] = {}
        with self._database.read() as connection:
            for some in chunks(ids):
                statement = sa.select(pseudo_labels).where(self._these(some))
                found.update(readable_labels(connection.execute(statement).mappings()))
        return [found[query_id] for query_id in ids if query_id in found]

    def replace(self, labels: Sequence[PseudoLabel]) -> int:
        """Put new labels in the place of old ones, which move to the history; how many were replaced.

        In one transaction. Queries without a label are left out, and so are labels that are equal to the present
        one, so that a round may repeat the step after a crash.
        """
        now = self._database.now()
        c = pseudo_labels.c
        changed = []
        with self._database.write() as connection:
            for some in chunks(list({label.query.id: label for label in labels}.values())):
                changed += self._superseded(connection, some, now)
            if changed:
                self._tally.replace(connection, sum(each.pop("parsed") for each in changed))
                statement = sa.update(pseudo_labels).where(
                    c.workload == self.workload, c.query_id == sa.bindparam("at_query_id")
                )
                connection.execute(statement, changed)
        return len(changed)

    def _superseded(self, connection: Connection, labels: Sequence[PseudoLabel], now: float) -> list[dict[str, Any]]:
        """Copy the present labels into the history where they differ; the updates to make."""
        c = pseudo_labels.c
        columns = sa.select(*c["query_id", "revision", "updated_at", *_HISTORY])
        ids = [label.query.id for label in labels]
        present = {row["query_id"]: row for row in connection.execute(columns.where(self._these(ids))).mappings()}
        history, updates = [], []
        for label in labels:
            old = present.get(label.query.id)
            values = label_columns(label)
            if old is None or all(old[name] == values[name] for name in _HISTORY):
                continue
            kept = {name: old[name] for name in ("query_id", "revision", *_HISTORY)}
            history.append({**kept, "workload": self.workload, "created_at": old["updated_at"]})
            at = {"revision": old["revision"] + 1, "updated_at": now, "at_query_id": label.query.id}
            parsed = (values["answer"] is not None) - (old["answer"] is not None)
            updates.append({**values, **at, "unclean": False, "parsed": parsed})
        self._database.insert_new(connection, pseudo_label_history, history, pseudo_label_history.c.query_id)
        return updates

    # --- figures ------------------------------------------------------------------------------------------------

    def counts(self) -> LabelCounts:
        due = sa.select(sa.func.count()).where(self._mine(), pseudo_labels.c.published.is_(False))
        with self._database.read() as connection:
            tally = self._tally.read(connection)
            return LabelCounts(tally.stored, tally.unparsed, connection.execute(due).scalar_one())

    def labelled(self) -> int:
        """Queries labelled so far, those among them whose label retention has deleted."""
        with self._database.read() as connection:
            return self._tally.read(connection).labelled

    def last_added(self) -> float | None:
        """When a query was last labelled for the first time, UTC seconds; None when none was."""
        statement = sa.select(sa.func.max(pseudo_labels.c.created_at)).where(self._mine())
        with self._database.read() as connection:
            return connection.execute(statement).scalar()

    def count_since(self, at: float) -> int:
        """Queries first labelled after `at`, UTC seconds."""
        c = pseudo_labels.c
        statement = sa.select(sa.func.count()).where(self._mine(), c.created_at > at)
        with self._database.read() as connection:
            return connection.execute(statement).scalar_one()

    def window(self, newest: int, adapter: str | None = None) -> LabelWindow:
        """Means over the `newest` labels; with `adapter`, of those that it produced."""
        c = pseudo_labels.c
        condition = sa.true() if adapter is None else c.adapter == adapter
        rows = (
            sa.select(*c["answer", "entropy", "agreement"])
            .where(self._mine(), condition)
            .order_by(c.created_at.desc())
            .limit(newest)
            .subquery()
        )
        finite = sa.case((rows.c.entropy < 1e300, rows.c.entropy))
        statement = sa.select(
            sa.func.count(),
            sa.func.count() - sa.func.count(rows.c.answer),
            sa.func.avg(finite),
            sa.func.avg(rows.c.agreement),
        ).select_from(rows)
        with self._database.read() as connection:
            return LabelWindow(*connection.execute(statement).one())

    def offsets(self) -> dict[str, dict[str, int]]:
        """{topic: {partition: highest offset that got a label}}; partitions as text, for JSON."""
        with self._database.read() as connection:
            return self._tally.offsets(connection)

    # --- inside -------------------------------------------------------------------------------------------------

    def _mine(self) -> sa.ColumnElement[bool]:
        return pseudo_labels.c.workload == self.workload

    def _these(self, ids: Sequence[str] | None = None) -> sa.ColumnElement[bool]:
        """Those of these queries; None: of the parameter `ids`."""
        return self._mine() & self._database.among(pseudo_labels.c.query_id, ids)

    def _mark_published(self, connection: Connection, ids: Sequence[str]) -> None:
        for some in chunks(ids):
            connection.execute(self._publish_ids, {"ids": some})

    def _row(self, new: NewLabel, now: float) -> dict[str, Any]:
        return {
            "workload": self.workload,
            "query_id": new.label.query.id,
            "query": query_to_json(new.label.query),
            "content_hash": new.content_hash,
            **label_columns(new.label),
            "topic": new.topic,
            "partition": new.partition,
            "offset": new.offset,
            "revision": 1,
            "published": False,
            "created_at": now,
            "updated_at": now,
        }


def _stored(row: RowMapping) -> StoredLabel:
    return StoredLabel(
        label=label_of(row),
        **{
            name: row[name]
            for name in (
                "content_hash",
                "topic",
                "partition",
                "offset",
                "revision",
                "published",
                "created_at",
                "updated_at",
            )
        },
    )
