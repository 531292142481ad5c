"""What a person says of an item, on its way to where all labels go; and what waits for people.

Owns the checks and the order: an item is taken by whoever answers it first, then the label is published, and where that
fails the item is as it was. Invariant: of several answers to one item one becomes a label, and it says the query that
was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from semievol.errors import DataError
from semievol.examples.records import query_to_json
from semievol.tasks.task import Task
from semievol.types import Example, Query
from semievold.config.daemon import DaemonConfig
from semievold.errors import PoisonRecord, StateConflict
from semievold.intake.messages import RecordParser, label_record
from semievold.review.queue import LOST_S, waits_for_labels
from semievold.review.shown import query_of, shown, shown_contradiction
from semievold.store.review.contradictions import Item as Contradiction
from semievold.store.review.items import PURPOSES, By, ItemState, Purpose, ReviewItem
from semievold.store.stores import Stores
from semievold.streams.protocol import OutgoingRecord, StreamProducer

REVIEW = "review"
"""The source of a label that was given to an item."""
Which = Purpose | Literal["contradiction"]
KINDS: tuple[Which, ...] = ("gate", "teach", "contradiction")
BY_REVIEWERS = ("terminal", "api", "import")
ANSWERABLE = (ItemState.OPEN, ItemState.SKIPPED, ItemState.OVER)
MOST_SHOWN = 500
MOST_COUNTED = 1_000
"""More contradictions than so many are not counted: unlike the other kinds, no setting bounds how many wait."""


class UnknownItem(StateConflict):
    """There is no item of that name."""


@dataclass(frozen=True, slots=True)
class Reviewers:
    """What people can do with the items of one workload."""

    config: DaemonConfig
    stores: Stores
    producer: StreamProducer

    def waiting(self, kind: Which | None = None, most: int = MOST_SHOWN, counted: int = MOST_COUNTED) -> dict[str, Any]:
        """Blocking. What waits, what a gate needs first, and of which kind how much; where there is nothing, why.

        The order within a gate's items is the one in which their labels count. Of contradictions at most `counted` are
        counted; where there are more, `at_least` names the kind.
        """
        task, now = Task(self.config.task), self.stores.database.now()
        contradictions, given_since = self.stores.contradictions, now - LOST_S
        items: list[dict[str, Any]] = []
        if kind != "contradiction":
            items += [shown(item, task) for item in self.stores.reviews.open(kind, most)]
        if kind in (None, "contradiction") and len(items) < most:
            items += [
                shown_contradiction(each, task) for each in contradictions.waiting(most - len(items), given_since)
            ]
        waiting = self.stores.reviews.waiting()
        counts: dict[Which, int] = {kind: waiting[kind] for kind in PURPOSES}
        found = contradictions.count_waiting(given_since, counted + 1)
        counts["contradiction"] = min(found, counted)
        at_least = ["contradiction"] if found > counted else []
        return {"items": items, "open": counts, "at_least": at_least, "nothing": self._why_not(counts)}

    def checked(self, key: str | None, query_id: str | None, answer: object) -> str:
        """Blocking. The name of the item that is called so, or asks the query of this id, if the answer is one to it.

        Raises:
            UnknownItem: there is none.
            DataError: the task has no such answer.
        """
        found = None if key is None else self.stores.reviews.get(key) or self.stores.contradictions.get(key)
        if found is None and query_id is not None:
            found = self.stores.reviews.of_query(query_id)
        item = self._item(key or query_id or "") if found is None else found
        self._label(self._asked(item), answer)
        return item.key

    async def give(self, key: str, answer: object, by: By) -> dict[str, Any]:
        """Publish an answer as the label of an item.

        Raises:
            UnknownItem: there is none.
            StateConflict: it has a label already.
            DataError: the task has no such answer.
            TransientError: the stream does not answer; the item waits as before.
        """
        item = await asyncio.to_thread(self._item, key)
        label = self._label(self._asked(item), answer)
        reviews, record = self.stores.reviews, label_record(label)
        if not isinstance(item, ReviewItem):
            await self.producer.publish(self.config.stream.labels, [record])
            await asyncio.to_thread(self.stores.contradictions.give, key, self.stores.database.now())
        else:
            taken = {"answer": label.answer, "label_by": by}
            if not await asyncio.to_thread(lambda: reviews.move(key, ANSWERABLE, ItemState.GIVEN, **taken)):
                raise StateConflict(f"{key}: has its label already")
            try:
                await self.producer.publish(self.config.stream.labels, [record])
            except BaseException:
                back = {"answer": None, "label_by": None}
                await asyncio.to_thread(lambda: reviews.move(key, (ItemState.GIVEN,), item.state, **back))
                raise
        return {"review": key, "id": label.id, "state": ItemState.GIVEN.value, "answer": label.answer}

    async def skip(self, key: str) -> dict[str, Any]:
        """A person has looked and cannot say: the item waits for nobody any more.

        Raises:
            UnknownItem: there is none.
            StateConflict: it is not open, or a contradiction, which waits until somebody can say.
        """
        item = await asyncio.to_thread(self._item, key)
        if not isinstance(item, ReviewItem):
            raise StateConflict(f"{key}: a contradiction is not skipped; leave it for somebody who can say")
        moved = await asyncio.to_thread(self.stores.reviews.move, key, (ItemState.OPEN,), ItemState.SKIPPED)
        if not moved:
            raise StateConflict(f"{key}: is not open any more")
        return {"review": key, "id": item.draft.query.id, "state": ItemState.SKIPPED.value}

    async def undo(self, key: str) -> dict[str, Any]:
        """Take back what a reviewer said, or skipped: the label is withdrawn, and the item open.

        Raises:
            UnknownItem: there is none.
            StateConflict: nothing was said to it, or elsewhere; or models have been taught the label since.
            TransientError: the stream does not answer; nothing has changed.
        """
        item = await asyncio.to_thread(self._item, key)
        if not isinstance(item, ReviewItem) or item.state in (ItemState.OPEN, ItemState.OVER):
            raise StateConflict(f"{key}: there is nothing to be undone")
        id_ = item.draft.query.id
        if item.state is not ItemState.SKIPPED:
            way_out = f"`semievol labels retract {id_}` takes it back"
            if item.label_by not in BY_REVIEWERS:
                raise StateConflict(f"{key}: its label came by {item.label_by}; {way_out}")
            if await asyncio.to_thread(self._was_taught, id_):
                raise StateConflict(f"{key}: a round has learned from it; {way_out}")
            await self.producer.publish(self.config.stream.labels, [OutgoingRecord(id_, None)])
        said = (ItemState.GIVEN, ItemState.LABELLED, ItemState.SKIPPED)
        nothing = {"answer": None, "label_by": None, "label_id": None}
        await asyncio.to_thread(lambda: self.stores.reviews.move(key, said, ItemState.OPEN, **nothing))
        return {"review": key, "id": id_, "state": ItemState.OPEN.value}

    # --- inside -------------------------------------------------------------------------------------------------

    def _item(self, key: str) -> ReviewItem | Contradiction:
        item = self.stores.reviews.get(key) or self.stores.contradictions.get(key)
        if item is None:
            raise UnknownItem(f"there is no item {key[:64]!r} in review; `semievol review list` shows them")
        return item

    def _asked(self, item: ReviewItem | Contradiction) -> Query:
        query = item.draft.query if isinstance(item, ReviewItem) else query_of(item)
        if query is None:
            raise DataError("question: what is asked cannot be read; the item stays as it is")
        return query

    def _label(self, query: Query, answer: object) -> Example:
        if not isinstance(answer, str | int | float) or isinstance(answer, bool):
            raise DataError("field 'answer': missing; send the right answer as text")
        parser = RecordParser(Task(self.config.task), self.config.stream.max_record_bytes)
        try:
            return parser.example({**query_to_json(query), "answer": answer, "source": REVIEW})
        except PoisonRecord as poison:
            raise DataError(poison.detail) from poison

    def _was_taught(self, label_id: str) -> bool:
        return self.stores.lineage.taught(label_id)

    def _why_not(self, counts: Mapping[Which, int]) -> dict[str, str]:
        """Of the kinds of which nothing waits, why."""
        settings = self.config.review
        found: dict[str, str] = {}
        round_ = self.stores.rounds.open()
        if not counts["gate"]:
            if not settings.max_gate:
                found["gate"] = "review.max_gate is 0"
            elif round_ is None or not waits_for_labels(round_):
                found["gate"] = "no gate waits for labels"
            else:
                found["gate"] = (
                    f"the gate of round {round_.number} waits for labels, and of the queries that were first asked "
                    "since its snapshot none is without one"
                )
        if not counts["teach"]:
            if not settings.max_teach:
                found["teach"] = "review.max_teach is 0"
            elif self.stores.pseudo_labels.last_added() is None:
                found["teach"] = "no query has been answered yet"
            else:
                found["teach"] = "none of the queries that were answered last is without a label, or not drawn yet"
        if not counts["contradiction"]:
            found["contradiction"] = "nobody contradicts anybody"
        return found
