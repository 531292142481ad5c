"""What happens to one batch of query records: parse, recognise, label, store, publish.

Owns the order of these steps, which makes at-least-once delivery safe, and their retries. Does not own polling and
offsets (`semievold.intake.role`), which are told of each record that is finished: a late one delays itself alone.
Invariant: nothing is published that is not stored, and a query's content is labelled once: a redelivery is skipped,
another content under a used id is dead-lettered.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar

from semievol.errors import AdapterError, TransientError
from semievol.types import PseudoLabel, Query, Unlabelled
from semievold.config.streams import RetrySettings, StreamSettings
from semievold.errors import PoisonRecord, Reason, RecordRefused
from semievold.intake.counters import IntakeCounters
from semievold.intake.isolation import each_to_its_end, innocent_query
from semievold.intake.messages import NO_HEADERS, RecordParser, dead_letter, prediction_record
from semievold.intake.traced import RecordSpans
from semievold.retry import until_answered
from semievold.rollout.stream import StreamTrial
from semievold.store.pseudo_labels import NewLabel, PseudoLabelStore, query_hash
from semievold.streams.protocol import OutgoingRecord, StreamProducer, StreamRecord
from semievold.tracing import Tracing

logger = logging.getLogger(__name__)

T = TypeVar("T")

REPUBLISHED_AT_ONCE = 500
_NOT_KNOWN: Mapping[str, StreamRecord] = MappingProxyType({})
_TOGETHER_S = 0.1
"""A commit waits for the disk, so fewer of them are faster; a prediction that waits so long is not late."""

Bind = Callable[[], AbstractAsyncContextManager[str | None]]
"""Holds the serving adapter for the time of one call: `async with bind() as adapter` (None: the base model)."""


Told = Callable[[PseudoLabel | Unlabelled], None]
Done = Callable[[Sequence[StreamRecord]], None]
"""Is told of records whose effects are durable: their offsets may be committed."""


Stored = Callable[[Sequence[PseudoLabel], Sequence[float]], None]
"""Is told of labels that became durable, and how long each query had waited for its own, seconds."""


Causes = Callable[[str, Sequence[tuple[StreamRecord, OutgoingRecord]]], None]
"""Takes, for a topic, what each record that was read causes there."""


class Labeller(Protocol):
    """Answers queries and says how sure it is (see semievol.labelling.collaboration)."""

    async def label(self, queries: Sequence[Query], adapter: str | None, *, told: Told) -> object:
        """Tell of each query as soon as it has its pseudo-label, or will get none.

        Raises:
            TransientError, AdapterError: not now; nothing is wrong with the queries that it has not told of.
        """
        ...


class _Asked(NamedTuple):
    record: StreamRecord
    query: Query
    content: str  # hash


class _Outcome(NamedTuple):
    asked: _Asked
    outcome: PseudoLabel | Unlabelled


class _Answered(NamedTuple):
    asked: _Asked
    label: PseudoLabel


class _Refused(NamedTuple):
    record: StreamRecord
    poison: PoisonRecord


class QueryBatches:
    """Works on batches of query records; several at a time.

    Args:
        bind: lends the serving adapter for one call of the labeller.
        on_stored: told of every label that became durable through this object (metrics).
        trial: the version that answers some of the queries instead; None: none ever does.
        causes: takes what is to be published, before its record is done; None: it is published at once.
        tracing: None: nothing is traced.
    """

    def __init__(
        self,
        parser: RecordParser,
        labeller: Labeller,
        bind: Bind,
        store: PseudoLabelStore,
        producer: StreamProducer,
        topics: StreamSettings,
        retry: RetrySettings,
        on_stored: Stored | None = None,
        causes: Causes | None = None,
        trial: StreamTrial | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._parser = parser
        self._labeller = labeller
        self._bind = bind
        self._store = store
        self._producer = producer
        self._topics = topics
        self._retry = retry
        self._on_stored = on_stored
        self._causes = causes
        self._trial = trial
        self._spans = RecordSpans(tracing)
        self.held_until = 0.0  # UTC seconds: nothing was read on purpose before, and waiting counts from here
        self._unmarked: list[str] = []  # published, and the store does not know it yet
        self.counters = IntakeCounters()

    async def work(self, records: Sequence[StreamRecord], stop: asyncio.Event, done: Done) -> None:
        """Bring every record to its end: a published pseudo-label, a recognised redelivery, or a dead letter.

        A record that causes an unexpected error is dead-lettered like one that is invalid.

        Raises:
            Stopped: `stop` was set while a component did not answer; what is not done is to be delivered again.
        """
        waiting = {id(record) for record in records}
        self._spans.begin(records)

        def finished(some: Sequence[StreamRecord]) -> None:
            waiting.difference_update(map(id, some))
            self._spans.end(some)
            done(some)

        async def give_up(record: StreamRecord, poison: PoisonRecord) -> None:
            await self._refuse([_Refused(record, poison)], stop)
            finished([record])

        try:
            await each_to_its_end(
                records,
                lambda some: self._work(some, stop, finished),
                lambda some: [record for record in some if id(record) in waiting],
                lambda: self._ask_innocent(stop),
                give_up,
            )
        finally:
            left = [record for record in records if id(record) in waiting]
            self._spans.end(left, "not done; it is to be delivered again")

    async def _work(self, records: Sequence[StreamRecord], stop: asyncio.Event, done: Done) -> None:
        asked, refused = self._parsed(records)
        if asked:
            asked, used = await self._sifted(asked, stop)
            refused += used
        await self._refuse(refused, stop)
        waiting = {id(item.record) for item in asked}
        done([record for record in records if id(record) not in waiting])
        async with aclosing(self._outcomes(asked, stop)) as outcomes:
            async for some in outcomes:
                await self._settle(some, stop)
                done([outcome.asked.record for outcome in some])

    async def republish(self, older_than_s: float, stop: asyncio.Event) -> None:
        """Publish the predictions that a process stored and then died.

        Where what a record causes is published with its offset, such records come again by themselves; only those of a
        topic that is not read any more do not.

        Raises:
            Stopped: as in `work`.
        """
        but_of = None if self._causes is None else self._topics.queries
        search = functools.partial(self._store.unpublished, REPUBLISHED_AT_ONCE, older_than_s, but_of=but_of)
        while True:
            due = await self._answer("store", lambda: asyncio.to_thread(search), stop)
            await self._publish(due, stop)
            await self._answer("store", self.mark_published, stop)
            if len(due) < REPUBLISHED_AT_ONCE:
                return

    async def passed(self, next_offsets: Mapping[int, int], stop: asyncio.Event) -> None:
        """What the queries below these offsets cause is published, as their commit says.

        Raises:
            Stopped: as in `work`.
        """
        mark = functools.partial(self._store.mark_published_below, self._topics.queries, next_offsets)
        await self._answer("store", lambda: asyncio.to_thread(mark), stop)

    def published(self, topic: str, keys: Sequence[str | None]) -> None:
        """Of what was given to `causes`, this is published."""
        if topic == self._topics.predictions:
            self._unmarked += [key for key in keys if key is not None]
            self.counters.published += len(keys)

    async def mark_published(self) -> None:
        """Let the store know what was published; until then it would be published again after a crash.

        Raises:
            TransientStoreError: not now; the next call, or the next batch, tells it.
        """
        ids, self._unmarked = self._unmarked, []
        if not ids:
            return
        try:
            await asyncio.to_thread(self._store.mark_published, ids)
        except TransientError:
            self._unmarked += ids
            raise

    # --- the steps ----------------------------------------------------------------------------------------------

    def _parsed(self, records: Sequence[StreamRecord]) -> tuple[list[_Asked], list[_Refused]]:
        asked, refused = [], []
        for record in records:
            try:
                query = self._parser.query(record)
            except PoisonRecord as poison:
                refused.append(_Refused(record, poison))
            else:
                asked.append(_Asked(record, query, query_hash(query)))
        return asked, refused

    async def _sifted(self, asked: Sequence[_Asked], stop: asyncio.Event) -> tuple[list[_Asked], list[_Refused]]:
        """Those that have no label yet, one per id, and those that use an id for another content."""
        ids = [item.query.id for item in asked]
        seen = await self._answer("store", lambda: asyncio.to_thread(self._store.known, ids), stop)
        fresh, again, refused = [], [], []
        for item in asked:
            first = seen.get(item.query.id)
            if first is None:
                seen[item.query.id] = item.content
                fresh.append(item)
            elif first == item.content:
                again.append(item)
            else:
                refused.append(_used_id(item))
        self.counters.duplicates += len(again)
        self._spans.redelivered(item.record for item in again)
        if again and self._causes is not None:
            await self._resume(again, stop)
        return fresh, refused

    async def _resume(self, again: Sequence[_Asked], stop: asyncio.Event) -> None:
        """Of queries that are labelled, those that this very record asked for and that it has not caused yet."""
        ids = [item.query.id for item in again]
        stored = await self._answer("store", lambda: asyncio.to_thread(self._store.unpublished_places, ids), stop)
        for item in again:
            label = stored.get((item.record.topic, item.record.partition, item.record.offset))
            if label is not None:
                await self._publish([label], stop, {label.query.id: item.record})

    async def _outcomes(self, asked: Sequence[_Asked], stop: asyncio.Event) -> AsyncGenerator[list[_Outcome]]:
        """What became of the queries, as it becomes known; outcomes that are near in time come together."""
        if not asked:
            return
        known: asyncio.Queue[_Outcome | None] = asyncio.Queue()
        labelling = asyncio.create_task(self._label(asked, known, stop))
        labelling.add_done_callback(lambda _: known.put_nowait(None))
        try:
            ended = False
            while not ended:
                some = [await known.get()]
                if some[0] is not None and not labelling.done():  # one transaction for what comes at about this time
                    await asyncio.wait({labelling}, timeout=_TOGETHER_S)
                while not known.empty():
                    some.append(known.get_nowait())
                ended = None in some
                if outcomes := [outcome for outcome in some if outcome is not None]:
                    yield outcomes
            await labelling
        finally:
            labelling.cancel()
            await asyncio.gather(labelling, return_exceptions=True)

    async def _label(self, asked: Sequence[_Asked], known: asyncio.Queue[_Outcome | None], stop: asyncio.Event) -> None:
        """Until each query has its outcome; only those that have none yet are asked again."""
        left = {item.query.id: item for item in asked}

        def told(outcome: PseudoLabel | Unlabelled) -> None:
            known.put_nowait(_Outcome(left.pop(outcome.query.id), outcome))

        async def attempt() -> None:
            async with self._bind() as adapter:
                await self._labeller.label([item.query for item in left.values()], adapter, told=told)

        if self._trial is not None:
            await self._try(self._trial, asked, left, told)
        if left:
            await self._answer("labeller", attempt, stop, retry_on=(TransientError, AdapterError))

    async def _try(self, trial: StreamTrial, asked: Sequence[_Asked], left: Mapping[str, _Asked], told: Told) -> None:
        """Let a version on trial answer its share, once; what it has not answered then is left for what serves."""
        tried = [item.query for item in asked if trial.takes(item.record.headers, item.query.id)]
        if not tried:
            return
        async with trial.bind() as adapter:

            def answered(outcome: PseudoLabel | Unlabelled) -> None:
                if isinstance(outcome, PseudoLabel):
                    told(outcome)
                    return
                if outcome.late:  # what cannot be answered at all is no fault of the version
                    trial.failed(adapter)
                logger.warning("what serves answers query %s for %s: %s", outcome.query.id, adapter, outcome.reason)

            try:
                await self._labeller.label(tried, adapter, told=answered)
            except AdapterError as error:
                trial.failed(adapter)
                logger.warning("%s answers no queries, what serves does: %s", adapter, error)
            except TransientError as error:  # no fault of the version
                logger.warning("what serves answers for %s: %s", adapter, error)

    async def _ask_innocent(self, stop: asyncio.Event) -> None:
        """Raises what is wrong with the labeller, where it is wrong for every query."""

        async def attempt() -> None:
            async with self._bind() as adapter:
                await self._labeller.label([innocent_query(self._parser.task)], adapter, told=lambda _: None)

        await self._answer("labeller", attempt, stop, retry_on=(TransientError, AdapterError))

    async def _settle(self, outcomes: Sequence[_Outcome], stop: asyncio.Event) -> None:
        """Make them durable: store and publish the labels, dead-letter the queries that will get none."""
        answered = [_Answered(each.asked, each.outcome) for each in outcomes if isinstance(each.outcome, PseudoLabel)]
        refused = []
        for asked, outcome in outcomes:
            if isinstance(outcome, Unlabelled):
                logger.warning("query %s is left out: %s", outcome.query.id, outcome.reason)
                reason = Reason.ANSWER_LATE if outcome.late else Reason.LABELLING_REFUSED
                refused.append(_Refused(asked.record, PoisonRecord(reason, outcome.reason)))
        if answered:
            stored, used = await self._stored(answered, stop)
            refused += used
            self._spans.labelled((item.asked.record, item.label) for item in answered)
            await self._publish(stored, stop, {each.asked.query.id: each.asked.record for each in answered})
        await self._refuse(refused, stop)

    async def _stored(
        self, answered: Sequence[_Answered], stop: asyncio.Event
    ) -> tuple[list[PseudoLabel], list[_Refused]]:
        """The labels that this call stored, in one transaction, and those whose id got another content meanwhile."""
        new = [
            NewLabel(label, content, record.topic, record.partition, record.offset)
            for (record, _, content), label in answered
        ]
        published, self._unmarked = self._unmarked, []
        unsure = False

        async def attempt() -> set[str]:
            nonlocal unsure
            try:
                return await asyncio.to_thread(self._store.add, new, published)
            except TransientError:
                unsure = True
                raise

        added = await self._answer("store", attempt, stop)
        stored = [label for _, label in answered if label.query.id in added]
        if unsure and len(added) < len(new):
            # The answer to a commit may have been lost: then an earlier attempt of this call stored them.
            rest = [item for item in new if item.label.query.id not in added]
            stored += await self._answer("store", lambda: asyncio.to_thread(self._store.unpublished_of, rest), stop)
        self.counters.labelled += len(stored)
        self.counters.pace.stored(len(stored))
        ours = {label.query.id for label in stored}
        if self._on_stored is not None:
            self._on_stored(stored, self._waited_s(answered, ours))
        late = [item.asked for item in answered if item.label.query.id not in ours]
        if not late:
            return stored, []
        # Another batch or another process labelled them first: its label is the one, and it publishes it.
        _, refused = await self._sifted(late, stop)
        return stored, refused

    def _waited_s(self, answered: Sequence[_Answered], ours: Collection[str]) -> list[float]:
        now, held_until = time.time(), self.held_until
        return [
            max(0.0, now - max(asked.record.timestamp, held_until))
            for asked, label in answered
            if label.query.id in ours
        ]

    async def _publish(
        self, labels: Sequence[PseudoLabel], stop: asyncio.Event, asked_by: Mapping[str, StreamRecord] = _NOT_KNOWN
    ) -> None:
        """`asked_by`: the record of each query; where it is not at hand, nor is its trace."""
        if not labels:
            return
        if self._causes is not None and asked_by:
            caused = [(asked_by[each.query.id], each) for each in labels]
            predictions = [(record, prediction_record(label, self._spans.headers(record))) for record, label in caused]
            return self._causes(self._topics.predictions, predictions)
        traces = {query_id: self._spans.headers(record) for query_id, record in asked_by.items()}
        records = [prediction_record(label, traces.get(label.query.id, NO_HEADERS)) for label in labels]
        try:
            await self._answer("stream", lambda: self._producer.publish(self._topics.predictions, records), stop)
        except RecordRefused as refused:
            if len(labels) > 1:
                for label in labels:
                    await self._publish([label], stop, asked_by)
                return
            logger.error("the prediction of %r stays in the state alone: %s", labels[0].query.id, refused)
        self.published(self._topics.predictions, [label.query.id for label in labels])

    async def _refuse(self, refused: Sequence[_Refused], stop: asyncio.Event) -> None:
        if not refused:
            return
        most, topic = self._topics.max_record_bytes, self._topics.dead_letter
        letters = [(record, dead_letter(record, poison, self._store.workload, most)) for record, poison in refused]
        if self._causes is not None:
            self._causes(topic, letters)
        else:
            only = [letter for _, letter in letters]
            await self._answer("stream", lambda: self._producer.publish(topic, only), stop)
        self.counters.dead_letters.update(poison.reason.value for _, poison in refused)
        self._spans.refused(refused)

    async def _answer(
        self,
        what: str,
        operation: Callable[[], Awaitable[T]],
        stop: asyncio.Event,
        retry_on: tuple[type[Exception], ...] = (TransientError,),
    ) -> T:
        return await until_answered(what, operation, self._retry, self.counters.health, stop, retry_on)


def _used_id(item: _Asked) -> _Refused:
    detail = f"id: {item.query.id!r} was used for another question before; give every query an id of its own"
    return _Refused(item.record, PoisonRecord(Reason.DUPLICATE_ID, detail))
