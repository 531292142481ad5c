"""What waits for a person's label: each question once, why it is asked, and what became of it.

Owns the table `reviews`. Which questions are drawn is said elsewhere (`semievold.review.drawing`), and what people and
clients contradict each other about has a table of its own. Invariants: a question has one item, however often and under
whichever ids it is asked, and one label closes it; items of a gate stand in an order that was drawn at random, which
nothing that is learned later changes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from semievol.errors import DataError
from semievol.examples.json_values import mended_text
from semievol.examples.near import near_key
from semievol.examples.records import query_to_json, stored_query
from semievol.examples.split import asked_key
from semievol.types import Example, Query
from semievold.store.database import Database, chunks
from semievold.store.tables import reviews

logger = logging.getLogger(__name__)

Purpose = Literal["gate", "teach"]
PURPOSES: tuple[Purpose, ...] = ("gate", "teach")
By = Literal["terminal", "api", "import", "topic", "feedback"]
"""By which way a label comes."""
WAYS: tuple[By, ...] = ("terminal", "api", "import", "topic", "feedback")


class ItemState(StrEnum):
    """How it stands with an item."""

    OPEN = "open"
    GIVEN = "given"  # somebody has said it, and the label is on its way
    LABELLED = "labelled"
    SKIPPED = "skipped"  # somebody has looked, and cannot say
    OVER = "over"  # nobody said it in time, or its round has ended


WAITING = (ItemState.OPEN.value, ItemState.GIVEN.value)


@dataclass(frozen=True, slots=True)
class Draft:
    """A question that was drawn.

    candidates: answers that may be right, in an order that does not tell who gave them; none where nothing is shown.
    times: how many queries ask it. why: figures for people. round: whose gate asks; None: it is to teach.
    differing: drawn among those queries alone to which the two models of the round give different answers.
    """

    query: Query
    purpose: Purpose
    candidates: tuple[str, ...] = ()
    times: int = 1
    why: Mapping[str, Any] = field(default_factory=dict)
    usefulness: float = 0.0
    round: int | None = None
    differing: bool = False

    @property
    def key(self) -> str:
        return near_key(self.query)


class ReviewItem(NamedTuple):
    """An item as it is stored; `place` is that in the random order of its round, from 1."""

    key: str
    draft: Draft
    place: int
    state: ItemState
    answer: str | None
    label_by: str | None
    created_at: float


class ReviewStore:
    """The items of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    # --- the leader's side --------------------------------------------------------------------------------------

    def add(self, drafts: Sequence[Draft]) -> int:
        """Make items of those questions that have none, or one that is over; in their order, in one transaction.

        Returns:
            How many.
        """
        given = {draft.key: draft for draft in drafts}
        with self._database.write() as connection:
            states = self._states(connection, list(given))
            wanted = {key: each for key, each in given.items() if states.get(key, ItemState.OVER) is ItemState.OVER}
            self._insert(connection, wanted)
        return len(wanted)

    def drawn(self, keys: Sequence[str], *, over: bool = True) -> set[str]:
        """Those of the questions (`near_key`) that have an item; with `over` false, those whose item is not over."""
        with self._database.read() as connection:
            states = self._states(connection, keys)
        return {key for key, state in states.items() if over or state is not ItemState.OVER}

    def close(self, open_round: int | None, teach_before: float, given_before: float) -> int:
        """Let what nobody has said end: of other rounds than the open one, and what teaches since before then (UTC
        seconds). What was given and has not arrived since `given_before` is asked again. How many ended.
        """
        c, now = reviews.c, self._database.now()
        others = sa.true() if open_round is None else c.round != open_round
        ending = ((c.purpose == "gate") & others) | ((c.purpose == "teach") & (c.created_at < teach_before))
        lost = sa.update(reviews).where(self._mine(), c.state == ItemState.GIVEN.value, c.updated_at < given_before)
        ended = sa.update(reviews).where(self._mine(), c.state == ItemState.OPEN.value, ending)
        if not self._any(c.state.in_(WAITING)):
            return 0
        with self._database.write() as connection:
            connection.execute(lost.values(state=ItemState.OPEN.value, updated_at=now))
            return connection.execute(ended.values(state=ItemState.OVER.value, updated_at=now)).rowcount

    def forget(self, before: float) -> None:
        """Delete what ended without a label before then, UTC seconds."""
        c = reviews.c
        gone = (self._mine(), c.state.in_((ItemState.OVER.value, ItemState.SKIPPED.value)), c.updated_at < before)
        if self._any(*gone[1:]):
            with self._database.write() as connection:
                connection.execute(sa.delete(reviews).where(*gone))

    def due(self, most: int) -> list[ReviewItem]:
        """Those that are not in the review topic yet."""
        c = reviews.c
        unpublished = c.published.is_(False) & c.state.in_(WAITING)
        return self._select(unpublished, order=(c.created_at, c.place, c.key), most=most)

    def mark_published(self, keys: Sequence[str]) -> None:
        """They are in the review topic."""
        with self._database.write() as connection:
            which = (self._mine(), reviews.c.key.in_(keys))
            connection.execute(sa.update(reviews).where(*which).values(published=True))

    # --- the reviewers' side ------------------------------------------------------------------------------------

    def open(self, purpose: Purpose | None = None, most: int | None = None) -> list[ReviewItem]:
        """What waits for a person: first what a gate needs, in its random order, then what teaches most."""
        c = reviews.c
        of = sa.true() if purpose is None else c.purpose == purpose
        order = (c.purpose, c.place, c.usefulness.desc(), c.created_at, c.key)
        return self._select(c.state == ItemState.OPEN.value, of, order=order, most=most)

    def get(self, key: str) -> ReviewItem | None:
        found = self._select(reviews.c.key == key)
        return found[0] if found else None

    def of_query(self, query_id: str) -> ReviewItem | None:
        """The newest item whose label the query of this id would get."""
        c = reviews.c
        found = self._select(c.query_id == query_id, order=(c.created_at.desc(),), most=1)
        return found[0] if found else None

    def move(self, key: str, states: Collection[ItemState], to: ItemState, **columns: str | None) -> bool:
        """Whether the item was in one of the states, and is in the other now."""
        values = {"state": to.value, "updated_at": self._database.now(), **columns}
        which = (self._mine(), reviews.c.key == key, reviews.c.state.in_([state.value for state in states]))
        with self._database.write() as connection:
            return connection.execute(sa.update(reviews).where(*which).values(values)).rowcount == 1

    # --- the labels' side ---------------------------------------------------------------------------------------

    def settle(self, labels: Sequence[Example], by: By) -> int:
        """These labels have come: close the items of what they ask. How many were closed; a label closes one once."""
        given = {near_key(each.query): each for each in labels}
        if not given or not self._any():
            return 0
        count, now, c = 0, self._database.now(), reviews.c
        with self._database.write() as connection:
            for key, state in self._states(connection, list(given)).items():
                label = given[key]
                values: dict[str, Any] = {"answer": mended_text(label.answer), "label_id": label.id}
                which = self._mine() & (c.key == key)
                if state is ItemState.LABELLED:
                    same = (c.answer == values["answer"]) & (c.label_id == label.id)
                    connection.execute(sa.update(reviews).where(which, ~same).values(**values, updated_at=now))
                    continue
                values["label_by"] = sa.func.coalesce(c.label_by, by) if state is ItemState.GIVEN else by
                values |= {"state": ItemState.LABELLED.value, "updated_at": now}
                count += connection.execute(sa.update(reviews).where(which).values(values)).rowcount
        return count

    def reopen(self, label_ids: Sequence[str]) -> None:
        """These labels were taken back: what they closed is asked again."""
        c, open_ = reviews.c, {"state": ItemState.OPEN.value, "answer": None, "label_by": None, "label_id": None}
        closed = (c.state == ItemState.LABELLED.value,)
        if not self._any(*closed):
            return
        with self._database.write() as connection:
            for some in chunks(label_ids):
                which = (self._mine(), *closed, c.label_id.in_(some))
                values = {**open_, "updated_at": self._database.now()}
                connection.execute(sa.update(reviews).where(*which).values(values))

    def only_to_train(self, queries: Iterable[Query]) -> frozenset[str]:
        """What of these is asked (`asked_key`) that was chosen for review, and not at random among all queries: its
        label says nothing about the others, and is neither held out nor calibrated on.
        """
        asked: dict[str, set[str]] = {}
        for query in queries:
            asked.setdefault(near_key(query), set()).add(asked_key(query))
        c = reviews.c
        chosen = (c.purpose == "teach") | c.differing.is_(True)
        if not asked or not self._any(chosen):
            return frozenset()
        found: set[str] = set()
        with self._database.read() as connection:
            for some in chunks(list(asked)):
                keys = connection.execute(sa.select(c.key).where(self._mine(), chosen, c.key.in_(some))).scalars()
                found.update(*(asked[key] for key in keys))
        return frozenset(found)

    def evidence(self, number: int) -> dict[str, bool]:
        """{id of the example: drawn among differing answers alone?} of the labels that count at the gate of a round.

        They count in the order in which they were drawn, as far as all have a label or were skipped: so nobody chooses
        which of them counts.
        """
        c = reviews.c
        statement = (
            sa.select(*c["state", "label_id", "differing"])
            .where(self._mine(), c.round == number, c.purpose == "gate")
            .order_by(c.place)
        )
        counting: dict[str, bool] = {}
        with self._database.read() as connection:
            for row in connection.execute(statement):
                if row.state in WAITING:
                    break
                if row.state == ItemState.LABELLED.value:
                    counting[row.label_id] = row.differing
        return counting

    # --- figures ------------------------------------------------------------------------------------------------

    def waiting(self) -> dict[str, int]:
        """How many items are open, by purpose."""
        c = reviews.c
        statement = sa.select(c.purpose, sa.func.count()).where(self._mine(), c.state == ItemState.OPEN.value)
        with self._database.read() as connection:
            found = {row[0]: row[1] for row in connection.execute(statement.group_by(c.purpose))}
        return {purpose: found.get(purpose, 0) for purpose in PURPOSES}

    def labelled(self) -> dict[str, int]:
        """How many items have a label, by the way it came."""
        c = reviews.c
        statement = sa.select(c.label_by, sa.func.count()).where(self._mine(), c.state == ItemState.LABELLED.value)
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(statement.group_by(c.label_by))}

    def last_change(self) -> float | None:
        """When an item was last made or moved, UTC seconds."""
        statement = sa.select(sa.func.max(reviews.c.updated_at)).where(self._mine())
        with self._database.read() as connection:
            return connection.execute(statement).scalar()

    # --- inside -------------------------------------------------------------------------------------------------

    def _mine(self) -> sa.ColumnElement[bool]:
        return reviews.c.workload == self._workload

    def _any(self, *conditions: sa.ColumnElement[bool]) -> bool:
        """Most daemons have few items: the write lock is for those that have some."""
        statement = sa.select(reviews.c.key).where(self._mine(), *conditions).limit(1)
        with self._database.read() as connection:
            return connection.execute(statement).first() is not None

    def _states(self, connection: Connection, keys: Sequence[str]) -> dict[str, ItemState]:
        found: dict[str, ItemState] = {}
        for some in chunks(keys):
            statement = sa.select(*reviews.c["key", "state"]).where(self._mine(), reviews.c.key.in_(some))
            found.update((row.key, ItemState(row.state)) for row in connection.execute(statement))
        return found

    def _insert(self, connection: Connection, wanted: Mapping[str, Draft]) -> None:
        c, now = reviews.c, self._database.now()
        places: dict[int, int] = {}
        for number in {draft.round for draft in wanted.values() if draft.round is not None}:
            last = sa.select(sa.func.max(c.place)).where(self._mine(), c.round == number)
            places[number] = connection.execute(last).scalar() or 0
        rows = []
        for key, draft in wanted.items():
            place = 0
            if draft.round is not None:
                place = places[draft.round] = places[draft.round] + 1
            rows.append({**_columns(draft), "workload": self._workload, "key": key, "place": place, **_fresh(now)})
        if rows:
            self._database.upsert(connection, reviews, rows, [name for name in rows[0] if name not in _KEY])

    def _select(
        self, *conditions: sa.ColumnElement[bool], order: Sequence[Any] = (), most: int | None = None
    ) -> list[ReviewItem]:
        statement = sa.select(reviews).where(self._mine(), *conditions).order_by(*order).limit(most)
        with self._database.read() as connection:
            return list(_readable(connection.execute(statement).mappings()))


def chosen_for_review(workload: str) -> sa.Select[tuple[str]]:
    """The ids of queries that were drawn, and not at random among all: labels under them came in a chosen order."""
    c = reviews.c
    return sa.select(c.query_id).where(c.workload == workload, (c.purpose == "teach") | c.differing.is_(True))


_KEY = ("workload", "key")


def _fresh(now: float) -> dict[str, Any]:
    return {
        "state": ItemState.OPEN.value,
        "answer": None,
        "label_by": None,
        "label_id": None,
        "published": False,
        "created_at": now,
        "updated_at": now,
    }


def _columns(draft: Draft) -> dict[str, Any]:
    return {
        "query_id": draft.query.id,
        "purpose": draft.purpose,
        "query": query_to_json(draft.query),
        "candidates": [mended_text(candidate) for candidate in draft.candidates],
        "times": draft.times,
        "why": dict(draft.why),
        "usefulness": draft.usefulness,
        "round": draft.round,
        "differing": draft.differing,
    }


def _readable(rows: Iterable[RowMapping]) -> Iterable[ReviewItem]:
    for row in rows:
        try:
            query = stored_query(row["query"], row["query_id"])
        except (DataError, TypeError) as error:
            logger.warning("reviews: row %r cannot be read: %s; it is left out", row["key"], error)
            continue
        names = ("purpose", "times", "why", "usefulness", "round", "differing")
        draft = Draft(query, candidates=tuple(row["candidates"]), **{name: row[name] for name in names})
        rest = (row[name] for name in ("answer", "label_by", "created_at"))
        yield ReviewItem(row["key"], draft, row["place"], ItemState(row["state"]), *rest)
