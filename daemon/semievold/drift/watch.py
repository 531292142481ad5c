"""Looks for drift on a timer, in the process that leads: off the path of queries and labels.

Owns the timer and the order: read what is new, tell the detectors, keep their states, the place and the events in one
transaction. Invariant: nothing is remembered between two looks but in the state, so that another leader, or this one
after a kill, goes on where the last transaction ended.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from semievol.drift.accuracy import powered_interval
from semievol.errors import SemiEvolError
from semievol.tasks.equality import AnswerEquality, is_correct
from semievol.types import Example
from semievold.config.drift import DriftSettings
from semievold.drift.arrival import WAITING, asked_before, state_of, waiting_in
from semievold.drift.detectors import BASE, Detectors
from semievold.drift.evidence import evidence_of
from semievold.rounds.lease import ControlLease
from semievold.store.drift.events import Alarm, Answered, Position, Truth
from semievold.store.stores import Stores

log = logging.getLogger(__name__)

BATCH = 2_000
"""Rows that one transaction weighs; the states of all detectors are read and written for each."""
AHEAD = 500
"""Rows behind these that are read as well, to see what was asked before them and answered later."""
AROUND = 500
"""Queries whose confidence a label is held beside, and of which accuracy is estimated without labels."""


class DriftWatch:
    """The timer of one process that may lead.

    Args:
        stores: whose writes are checked against the lease.
        labels: how many labels the task has; None: answers are no closed set.
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
    ) -> None:
        self._settings = settings
        self._stores = stores
        self._lease = lease
        self._equality = equality
        self._labels = labels
        self._seed = seed
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

        await self._lease.while_leading(look_at_all, self._settings.look_s, stop, log, "drift")

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
        states = drift.detectors()
        settled, waited = drift.answered(position, BATCH, to), waiting_in(states)
        ahead = drift.asked(_after(position, to, settled, ()), AHEAD) if settled or waited else []
        rows, waiting = asked_before([*waited, *settled], ahead)
        truths = drift.truths(position, to, BATCH)
        if not rows and not settled and not truths:
            self._pass_labels(position, to)
            return False
        alias = self._stores.alias.get()
        known = drift.examples({row.neighbours[0][0] for row in [*rows, *_answered(truths)] if row.neighbours})
        detectors = Detectors(self._settings, self._labels, self._seed, position.arming, states)
        alarms: list[Alarm] = []
        tell = functools.partial(self._alarms, alarms)
        serving = alias.adapter
        for row, raised in detectors.tell([row for row in rows if row.adapter == serving], known):
            tell([raised], row, ())
        wrong: list[str] = []
        mean_proxy = self._mean_proxy(truths, serving)
        for truth, correct in self._judged(truths):
            row = truth.answered
            if row.adapter == serving:
                wrong += [] if correct else [row.query_id]
                tell(detectors.tell_truth(row, known, correct, mean_proxy), row, wrong)
        keep = {each or BASE for each in (alias.adapter, alias.previous)}
        summary = self._summary(detectors, serving)
        after = _after(position, to, settled, truths)
        changed = detectors.changed() | ({} if waiting == waited else {WAITING: state_of(waiting)})
        kept = drift.advance(position, after, changed, detectors.others(keep), alarms, summary)
        for alarm in alarms if kept else ():
            log.warning("drift: %s", alarm.evidence["said"])
        return len(settled) == BATCH or len(truths) == BATCH or not kept

    def _pass_labels(self, position: Position, to: float) -> None:
        """Leave behind what says nothing of earlier answers, or each look would read it again; written only if there
        is any.
        """
        last = self._stores.examples.last_change()
        after = _after(position, to, (), ())
        if last is not None and last >= position.label_at and after != position:
            self._stores.drift.advance(position, after, {}, (), ())

    def _alarms(self, alarms: list[Alarm], raised: Sequence[Any], last: Answered, wrong: Sequence[str]) -> None:
        stores = (self._stores.drift, self._stores.pseudo_labels)
        for each in raised:
            action = getattr(self._settings.action, each.kind)
            alarms.append(Alarm(each.kind, each.category, each.adapter, action, evidence_of(each, last, stores, wrong)))

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


def _after(before: Position, to: float, rows: Sequence[Answered], truths: Sequence[Truth]) -> Position:
    """Where to go on when these were all, or a full batch, of what came before `to`."""
    after = before
    if rows:
        after = after._replace(query_at=rows[-1].created_at, query_id=rows[-1].query_id)
    if len(truths) == BATCH:
        after = after._replace(label_at=truths[-1].updated_at, label_id=truths[-1].query_id)
    elif to > before.label_at:  # most examples are no label of an earlier answer: those are passed too
        after = after._replace(label_at=to, label_id="")
    return after
