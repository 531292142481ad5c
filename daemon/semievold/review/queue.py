"""Keeps questions before people: the leader draws what is missing, lets go what is over, and writes the review topic.

Owns the timer and the order: first the state, then the topic, then the mark that it is there. Invariant: no more items
wait than `review.*` allows; each is in the topic, at least once, whatever dies in between.
"""

from __future__ import annotations

import asyncio
import logging

from semievold.config.review import ReviewConfig
from semievold.errors import RecordRefused
from semievold.review.drawing import Drawing
from semievold.review.shown import item_record
from semievold.round_states import RoundState
from semievold.rounds.lease import ControlLease
from semievold.store.rounds import Round
from semievold.store.stores import Stores
from semievold.streams.protocol import StreamProducer

log = logging.getLogger(__name__)

DAY_S = 86_400.0
LOST_S = 600.0
"""A label that was given and has not come for so long is asked for again."""
FORGET_S = 180 * DAY_S
"""So long it is known of a question without a label that it was drawn: its label may come late."""
AT_ONCE = 100


class ReviewQueue:
    """The timer of one process that may lead.

    Args:
        stores: whose writes are checked against the lease.
    """

    def __init__(
        self,
        config: ReviewConfig,
        stores: Stores,
        drawing: Drawing,
        lease: ControlLease,
        producer: StreamProducer,
        topic: str,
    ) -> None:
        self._config = config
        self._stores = stores
        self._drawing = drawing
        self._lease = lease
        self._producer = producer
        self._topic = topic
        self._drawn_from: tuple[object, ...] | None = None
        self.published: dict[str, int] = {"gate": 0, "teach": 0}
        """Items that this process put into the topic, by purpose."""

    async def run(self, stop: asyncio.Event) -> None:
        """Look every `interval_s` while this process leads, until stopped."""
        await self._lease.while_leading(self.look, self._config.interval_s, stop, log, "review")

    async def look(self) -> None:
        """Draw what is missing, and publish it.

        Raises:
            LeaseLost: another process leads.
            TransientError: state or stream are busy or away.
        """
        await asyncio.to_thread(self._draw)
        while due := await asyncio.to_thread(self._stores.reviews.due, AT_ONCE):
            for item in due:
                try:
                    await self._producer.publish(self._topic, [item_record(item)])
                except RecordRefused as refused:
                    log.error("review of %r stays in the state alone: %s", item.draft.query.id, refused)
                self.published[item.draft.purpose] += 1
            await asyncio.to_thread(self._stores.reviews.mark_published, [item.key for item in due])

    def _draw(self) -> None:
        reviews, now = self._stores.reviews, self._stores.database.now()
        round_ = self._stores.rounds.open()
        proving = round_ if round_ is not None and waits_for_labels(round_) else None
        ended = reviews.close(
            None if proving is None else proving.number, now - self._config.keep_days * DAY_S, now - LOST_S
        )
        reviews.forget(now - FORGET_S)
        waiting = reviews.waiting()
        missing = self._config.max_gate - waiting["gate"] if proving is not None else 0
        teaching = self._config.max_teach - waiting["teach"]
        # What can be drawn changes with what is answered, and with what people say; looking through it again and again
        # would be for nothing.
        seen = (
            self._stores.pseudo_labels.last_added(),
            self._stores.examples.last_change(),
            None if round_ is None else (round_.number, round_.state),
            0 if proving is None else self._stores.shadow_pairs.answered(proving.number),
            missing > 0,
            teaching > 0,
        )
        if (missing <= 0 and teaching <= 0) or (seen == self._drawn_from and not ended):
            return
        if missing > 0 and proving is not None:
            reviews.add(self._drawing.for_gate(proving, missing, waiting["gate"]))
        if teaching > 0:
            reviews.add(self._drawing.to_teach(round_, teaching))
        self._drawn_from = seen


def waits_for_labels(round_: Round) -> bool:
    """Whether labels may still decide at the gate of a round: what is proved already waits for a person's word."""
    return round_.state is RoundState.PROVING and (round_.evaluation or {}).get("decision") != "promote"
