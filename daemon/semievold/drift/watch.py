"""Looks for drift on a timer, in the process that leads: off the path of queries and labels.

Owns the timer and the order: read what is new, tell the detectors, keep their states, the place and the events in one
transaction. Invariant: nothing is remembered between two looks but in the state, so that another leader, or this one
after a kill, goes on where the last transaction ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from semievol.drift.accuracy import powered_interval
from semievol.errors import SemiEvolError
from semievol.tasks.equality import AnswerEquality, is_correct
from semievol.types import Example
from semievold.config.drift import DriftSettings
from semievold.drift.detectors import BASE, Detectors
from semievold.drift.weighing import Batch, NotApartError, Weighed, Weigher, WeigherApart
from semievold.rounds.lease import ControlLease
from semievold.store.drift.events import Answered, Position, Truth
from semievold.store.stores import Stores

log = logging.getLogger(__name__)

BATCH = 2_000
"""Rows that one transaction weighs; the states of all detectors are read and written for each."""
FEW = 500
"""Rows that one transaction weighs in this process, where another may weigh: more rows than these are for that one."""
AROUND = 500
"""Queries whose confidence a label is held beside, and of which accuracy is estimated without labels."""


class DriftWatch:
    """The timer of one process that may lead.

    Args:
        stores: whose writes are checked against the lease.
        labels: how many labels the task has; None: answers are no closed set.
        apart: who weighs where many queries come; None: this process does.
    """

    def __init__(
        self,
        settings: DriftSettings,
        stores: Stores,
        lease: ControlLease,
        equality: AnswerEquality,
        labels: int | None,
        seed: int,
        now: Callable[[], float],
        apart: WeigherApart | None = None,
    ) -> None:
        self._settings = settings
        self._stores = stores
        self._lease = lease
        self._equality = equality
        self._here = Weigher(settings, labels, seed, stores.drift, stores.pseudo_labels)
        self._apart = apart
        self._many = False
        """Whether this look, or the one before, found more than FEW."""
        self._read = 0
        """How many this one has found so far."""
        self._now = now

    async def run(self, stop: asyncio.Event) -> None:
        """Look every `look_s` while this process leads, until stopped."""

        async def look_at_all() -> None:
            try:
                while await asyncio.to_thread(self.look) and not stop.is_set():
                    pass
            except SemiEvolError:
                raise
            except Exception:  # drift is told of, and stops nothing
                log.exception("drift: a look failed; the next one tries again")
            if not self._many:
                self._end_apart()

        try:
            await self._lease.while_leading(look_at_all, self._settings.look_s, stop, log, "drift", self._end_apart)
        finally:
            self._end_apart()

    def _end_apart(self) -> None:
        if self._apart is not None:
            self._apart.close()

    def look(self) -> bool:
        """Weigh what is new, at most BATCH queries; whether there may be more. Blocking.

        Raises:
            LeaseLost: another process leads.
            TransientError: the state or the embedder is busy or away.
        """
        drift = self._stores.drift
        if (closed := drift.rearm_after_round()) is not None:
            log.info("drift: event %d is closed by a round that settled; a new reference begins", closed.number)
        position = drift.position()
        to = self._now() - self._settings.settled_s
        alias = self._stores.alias.get()
        serving = alias.adapter
        weighed, more = self._weigh(position, to, serving)
        truths = drift.truths(position, to, BATCH)
        if not weighed.told and not truths:
            self._pass_labels(position, to)
            return False
        detectors = self._here.detectors(position, drift.detectors())
        alarms = list(weighed.alarms)
        known = drift.examples({row.neighbours[0][0] for row in _answered(truths) if row.neighbours})
        wrong: list[str] = []
        mean_proxy = self._mean_proxy(truths, serving)
        for truth, correct in self._judged(truths):
            row = truth.answered
            if row.adapter == serving:
                wrong += [] if correct else [row.query_id]
                raised = detectors.tell_truth(row, known, correct, mean_proxy)
                alarms += [self._here.alarm_of(each, row, wrong) for each in raised]
        keep = {each or BASE for each in (alias.adapter, alias.previous)}
        summary = self._summary(detectors, serving)
        changed = {**weighed.changed, **detectors.changed()}
        after = _after(position, to, weighed, truths)
        kept = drift.advance(position, after, changed, detectors.others(keep), alarms, summary)
        for alarm in alarms if kept else ():
            log.warning("drift: %s", alarm.evidence["said"])
        return more or len(truths) == BATCH or not kept

    def _weigh(self, position: Position, to: float, serving: str | None) -> tuple[Weighed, bool]:
        """What the next queries say, and whether there may be more: where few come here, where many come apart."""
        apart = self._apart if self._many else None
        most = BATCH if apart is not None or self._apart is None else FEW
        batch = Batch(position, to, most, serving)
        try:
            weighed = self._here.weigh(batch) if apart is None else apart.weigh(batch)
        except NotApartError as failure:
            log.warning("drift: %s; it is weighed here", failure)
            weighed = self._here.weigh(batch)
        more = weighed.read == most
        self._read += weighed.read
        self._many = self._read >= FEW
        if not more:
            self._read = 0
        return weighed, more

    def _pass_labels(self, position: Position, to: float) -> None:
        """Leave behind what says nothing of earlier answers, or each look would read it again; written only if there
        is any.
        """
        last = self._stores.examples.last_change()
        after = _after(position, to, None, ())
        if last is not None and last >= position.label_at and after != position:
            self._stores.drift.advance(position, after, {}, (), ())

    def _judged(self, truths: Sequence[Truth]) -> list[tuple[Truth, bool]]:
        """Whether each answer was right."""
        examples: dict[str, Example] = {}
        for truth in truths:
            stored = self._stores.examples.get(truth.query_id)
            if stored is not None:
                examples[truth.query_id] = stored.example
        answers = [truth.answered.answer for truth in truths]
        same = self._equality.among([*answers, *(gold for each in examples.values() for gold in each.answers)])
        return [
            (truth, is_correct(truth.answered.answer, examples[truth.query_id], same))
            for truth in truths
            if truth.query_id in examples
        ]

    def _mean_proxy(self, truths: Sequence[Truth], serving: str | None) -> float:
        """Of the queries from which these labelled ones come, as far as the serving adapter answered them."""
        if not truths:
            return 0.0
        around = self._stores.drift.newest(
            AROUND, max(_answered(truths), key=lambda row: (row.created_at, row.query_id))
        )
        rows = [row for row in [*around, *_answered(truths)] if row.adapter == serving]
        return float(np.mean([row.confidence for row in rows])) if rows else 0.0

    def _summary(self, detectors: Detectors, serving: str | None) -> dict[str, Any]:
        """Accuracy by labels and without them, as far as there are any."""
        seen = detectors.accuracy(serving or BASE)
        newest = self._stores.drift.newest(AROUND) if seen.record.count else []  # without a label they say nothing
        proxies = [each.confidence for each in newest if each.adapter == serving]
        interval = powered_interval(seen.record, seen.lately, proxies) if proxies else None
        return {
            "adapter": serving or BASE,
            "by_labels": None if interval is None else interval._asdict(),
            "without_labels": seen.record.estimated(proxies),
            "correlation": seen.record.correlation,
        }


def _answered(truths: Sequence[Truth]) -> list[Answered]:
    return [truth.answered for truth in truths]


def _after(before: Position, to: float, weighed: Weighed | None, truths: Sequence[Truth]) -> Position:
    """Where to go on when these were all, or a full batch, of what came before `to`."""
    after = before
    if weighed is not None and weighed.last is not None:
        after = after._replace(query_at=weighed.last[0], query_id=weighed.last[1])
    if len(truths) == BATCH:
        after = after._replace(label_at=truths[-1].updated_at, label_id=truths[-1].query_id)
    elif to > before.label_at:  # most examples are no label of an earlier answer: those are passed too
        after = after._replace(label_at=to, label_id="")
    return after
