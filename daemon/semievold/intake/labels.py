"""The labels role: true answers from the stream into the store, the holdout split and the example index.

Owns the order store, index, mark, commit, and the reconciliation of the index at the start. What an example is for is
decided once, by what it asks. Does not own the comparison over time of truth and prediction: it reports each pair.
Invariant: a held-out example is never in the index, and an offset is committed only when store and index agree.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

from semievol.errors import TransientError
from semievol.examples.split import HoldoutRule, asked_key
from semievol.protocols import ExampleIndex
from semievol.tasks.equality import AnswerEquality, is_correct
from semievol.types import Example
from semievold.config.streams import LabelsSettings, StreamSettings
from semievold.errors import PoisonRecord
from semievold.intake.counters import LabelsCounters
from semievold.intake.isolation import each_to_its_end, innocent_query, may_be_a_records
from semievold.intake.messages import Denial, RecordParser, Retraction, client_of, dead_letter
from semievold.intake.offsets import OffsetTracker
from semievold.intake.reviewing import Doubted, Reviewing
from semievold.retry import Pulse, Stopped, until_answered
from semievold.store.examples import FEEDBACK, ExampleStore, StoredExample
from semievold.store.feedback import FeedbackStore, Outcome, Said
from semievold.store.pseudo_labels import PseudoLabelStore
from semievold.store.review.contradictions import ContradictionStore
from semievold.store.review.items import By, ReviewStore
from semievold.streams.protocol import StreamConsumer, StreamProducer, StreamRecord

logger = logging.getLogger(__name__)

LOOP_LIMIT_S = 600.0
"""A turn of the loop embeds and indexes a batch."""

T = TypeVar("T")


class Joined(NamedTuple):
    """A delayed truth beside the prediction that was made earlier; `predicted` None: no candidate had parsed."""

    id: str
    predicted: str | None
    truth: str
    adapter: str | None
    predicted_at: float
    correct: bool


class LabelsIntake:
    """Runs one consumer of the labels topic.

    Args:
        least_holdout: so many different questions are held out, whatever the share says, once `training_first` of them
            can be trained on.
        calibration_share: of the questions that selection is calibrated on.
        feedback: decides on what clients say.
        contradictions: what of it goes to the review topic.
        reviews: what waits for labels.
        feedback_secret: by which trusted feedback is held out; None: it is not trusted.
        equality: which answers mean the same; None: what the parser's task says by itself, without an embedder.
        on_joined: told of every label whose query was answered earlier (accuracy drift).
    """

    def __init__(
        self,
        consumer: StreamConsumer,
        producer: StreamProducer,
        examples: ExampleStore,
        pseudo_labels: PseudoLabelStore,
        index: ExampleIndex,
        parser: RecordParser,
        settings: LabelsSettings,
        topics: StreamSettings,
        *,
        feedback: FeedbackStore,
        contradictions: ContradictionStore,
        reviews: ReviewStore,
        feedback_secret: str | None = None,
        least_holdout: int = 0,
        training_first: int = 0,
        calibration_share: float = 0.0,
        equality: AnswerEquality | None = None,
        on_joined: Callable[[Sequence[Joined]], None] | None = None,
    ) -> None:
        self._consumer = consumer
        self._producer = producer
        self._examples = examples
        self._pseudo_labels = pseudo_labels
        self._index = index
        self._parser = parser
        self._settings = settings
        self._rule = HoldoutRule(
            settings.holdout_share, settings.holdout_salt, least_holdout, training_first, calibration_share
        )
        self._feedback = feedback
        self._reviews = reviews
        self._reviewing = Reviewing(contradictions, producer, topics.review, self._answer)
        self._feedback_secret = feedback_secret
        self._topics = topics
        self._equality = equality or AnswerEquality(parser.task)
        self._on_joined = on_joined
        self._tracker = OffsetTracker()
        self._stop = asyncio.Event()
        self._next_lag = 0.0
        self.pulse = Pulse("the labels role", LOOP_LIMIT_S)
        self.counters = LabelsCounters()

    async def backlog(self) -> int:
        """Records not committed yet, measured now.

        Raises:
            TransientStreamError: the stream did not answer.
        """
        return await self._consumer.lag()

    @property
    def held(self) -> str | None:
        """What the labels wait for; None: they are read."""
        return self._consumer.waits_for

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile the index, then work until `stop` is set; a batch that was begun is finished and committed."""
        self._stop = stop
        try:
            await self.reconcile()
            self.counters.reviewed += await self._reviewing.publish()
            while not stop.is_set():
                await self._step()
        except Stopped:
            pass
        finally:
            await self._consumer.close()

    async def reconcile(self) -> None:
        """Make the index hold exactly the training examples: add what it lacks, remove what it should not hold."""
        # First the index, then the store: what another process adds in between is stored before it is indexed, so it
        # cannot look like something to remove.
        present = await self._answer("index", lambda: asyncio.to_thread(self._index.ids))
        training = await self._answer("store", lambda: asyncio.to_thread(self._examples.training))
        # What the task has no answer for any more must not be shown to anybody as an example.
        training = [each for each in training if self._parser.task.knows(each.answer, each.query)]
        unindexed = await self._answer("store", lambda: asyncio.to_thread(self._examples.unindexed))
        stale = {example.id for example in unindexed}
        missing = [example for example in training if example.id in stale or example.id not in present]
        for start in range(0, len(missing), self._settings.batch_size):
            await self._index_what_can_be(missing[start : start + self._settings.batch_size])
        extra = sorted(present - {example.id for example in training})
        await self._remove(extra)
        if missing or extra:
            logger.info("index reconciled: %d examples added, %d removed", len(missing), len(extra))

    async def _step(self) -> None:
        self.pulse.beat()
        settings = self._settings
        records = await self._answer(
            "stream", lambda: self._consumer.poll(settings.batch_size, settings.poll_timeout_s)
        )
        self._tracker.revoke(self._consumer.revoked())
        if records:
            self.counters.received += len(records)
            for record in records:
                self._tracker.add(record.partition, record.offset)
            await self._work(records)
            for record in records:
                self._tracker.done(record.partition, record.offset)
            offsets = self._tracker.committable()
            await self._answer("commit", lambda: self._consumer.commit(offsets))
            self._tracker.committed(offsets)
        if records or time.monotonic() >= self._next_lag:
            self._next_lag = time.monotonic() + settings.lag_interval_s
            self.counters.lag = await self._answer("lag", self._consumer.lag)

    # --- one batch ----------------------------------------------------------------------------------------------

    async def _work(self, records: Sequence[StreamRecord]) -> None:
        """Bring every record to its end. Of several for one id the last one counts.

        A record that causes an unexpected error is taken back and dead-lettered, like one that is invalid.
        """

        async def give_up(record: StreamRecord, poison: PoisonRecord) -> None:
            with suppress(PoisonRecord):
                item = self._parser.label(record)
                if isinstance(item, Denial):
                    pass  # it made nothing
                elif _is_feedback(item):
                    # What it made is taken back, and nothing that somebody else has said under its id.
                    withdrawn = lambda: asyncio.to_thread(self._feedback.withdraw, [item.id])  # noqa: E731
                    await self._remove(await self._answer("store", withdrawn))
                else:
                    await self._withdraw([item.id])
            await self._refuse([(record, poison)])

        # They end together or not at all: of those that failed, none is finished.
        await each_to_its_end(records, self._work_together, list, self._index_innocent, give_up)

    async def _work_together(self, records: Sequence[StreamRecord]) -> None:
        wanted: dict[str, Example | Retraction] = {}
        said: list[Said] = []
        refused: list[tuple[StreamRecord, PoisonRecord]] = []
        for record in records:
            try:
                item = self._parser.label(record)
            except PoisonRecord as poison:
                refused.append((record, poison))
            else:
                if isinstance(item, Denial):
                    said.append(Said(item.example, client_of(record.headers), against=True))
                    continue
                if isinstance(item, Example) and _is_feedback(item):
                    said.append(Said(item, client_of(record.headers)))
                    continue
                if isinstance(item, Retraction):
                    said = [each for each in said if each.example.id != item.id]
                wanted[item.id] = item
        await self._keep([item for item in wanted.values() if isinstance(item, Example)])
        await self._withdraw([item.id for item in wanted.values() if isinstance(item, Retraction)])
        await self._hear(said)  # last: nothing that came with it is known less
        await self._refuse(refused)

    async def _refuse(self, refused: Sequence[tuple[StreamRecord, PoisonRecord]]) -> None:
        if not refused:
            return
        most = self._topics.max_record_bytes
        letters = [dead_letter(record, poison, self._examples.workload, most) for record, poison in refused]
        await self._answer("stream", lambda: self._producer.publish(self._topics.dead_letter, letters))
        self.counters.dead_letters.update(poison.reason.value for _, poison in refused)

    async def _index_innocent(self) -> None:
        """Raises what is wrong with index or embedder, where it is wrong for every question."""
        question = innocent_query(self._parser.task).question
        await self._answer("index", lambda: asyncio.to_thread(self._index.neighbours, [question], 1))

    async def _keep(self, given: Sequence[Example]) -> None:
        if not given:
            return
        aside = await self._only_to_train(given)
        stored = await self._answer("store", lambda: asyncio.to_thread(self._examples.keep, given, self._rule, aside))
        await self._remove(await self._answer("store", lambda: asyncio.to_thread(self._feedback.settle, given)))
        changed = [item for item in stored if item.change != "same"]
        self.counters.added += len(changed)
        # A client's word stood in its place, on the other side.
        await self._remove([item.example.id for item in stored if item.holdout and item.change == "changed"])
        # Also unchanged ones: an earlier attempt may have stored them and not come to the index.
        await self._index_examples([item.example for item in stored if not item.holdout and not item.indexed])
        await self._settle(given, "topic")
        # What people were asked for because the model is unsure of it says nothing of how often it is right.
        await self._join([item for item in changed if asked_key(item.example.query) not in aside])

    async def _hear(self, said: Sequence[Said]) -> None:
        """What clients say: it becomes an example where nobody says otherwise."""
        if not said:
            return
        aside = await self._only_to_train([each.example for each in said])
        decided = await self._answer(
            "store", lambda: asyncio.to_thread(self._feedback.keep, said, self._rule, self._feedback_secret, aside)
        )
        self.counters.feedback.update(each.outcome for each in decided)
        removed = {example_id for each in decided for example_id in each.removed}
        await self._remove(sorted(removed))
        stored = [each.stored for each in decided if each.stored is not None and each.stored.example.id not in removed]
        self.counters.added += sum(item.change != "same" for item in stored)
        await self._index_examples([item.example for item in stored if not item.holdout and not item.indexed])
        if self._feedback_secret is not None:  # it is trusted
            await self._settle([item.example for item in stored], "feedback")
        # Also what was heard before: an earlier attempt may not have come so far.
        told = {each.said.example.id: each for each in decided if each.outcome is not Outcome.SECOND}
        wrong = []
        for item in await self._compared([each.said.example for each in told.values()]):
            each = told[item.id]
            # What a client says is wrong is all that it says: the prediction is another, or it is wrong.
            says_wrong = item.correct if each.said.against else not item.correct
            if says_wrong and item.predicted is not None:
                wrong.append(Doubted(each.said, item.predicted, item.adapter, item.predicted_at))
            self.counters.feedback_right += each.new and item.correct and not each.said.against
            self.counters.feedback_wrong += each.new and says_wrong
        await self._reviewing.doubt(wrong)
        self.counters.reviewed += await self._reviewing.publish()

    async def _only_to_train(self, given: Sequence[Example]) -> frozenset[str]:
        """What of it was chosen for review."""
        queries = [each.query for each in given]
        return await self._answer("store", lambda: asyncio.to_thread(self._reviews.only_to_train, queries))

    async def _settle(self, labels: Sequence[Example], by: By) -> None:
        """Close the items that asked for these labels."""
        settled = lambda: asyncio.to_thread(self._reviews.settle, labels, by)  # noqa: E731
        self.counters.review_labels += await self._answer("store", settled)

    async def _remove(self, ids: Sequence[str]) -> None:
        """From the index, what the store does not train on."""
        if ids:
            await self._answer("index", lambda: asyncio.to_thread(self._index.delete, ids))

    async def _index_examples(self, examples: Sequence[Example]) -> None:
        if not examples:
            return
        await self._answer("index", lambda: asyncio.to_thread(self._index.upsert, examples))
        ids = [example.id for example in examples]
        await self._answer("store", lambda: asyncio.to_thread(self._examples.mark_indexed, ids))
        self.counters.indexed += len(ids)

    async def _index_what_can_be(self, examples: Sequence[Example]) -> None:
        """As `_index_examples`; one that no index takes, which an older version has kept, is named and left out."""
        try:
            await self._index_examples(examples)
        except Exception as error:
            if not may_be_a_records(error):
                raise
            if len(examples) == 1:
                await self._index_innocent()
                logger.error("example %r cannot be indexed, and is left out: %r", examples[0].id, error)
                return
            for some in (examples[: len(examples) // 2], examples[len(examples) // 2 :]):
                await self._index_what_can_be(some)

    async def _withdraw(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        await self._answer("store", lambda: asyncio.to_thread(self._examples.retract, ids))
        await self._remove(ids)
        await self._answer("store", lambda: asyncio.to_thread(self._reviews.reopen, ids))
        self.counters.retracted += len(ids)

    async def _join(self, changed: Sequence[StoredExample]) -> None:
        """Count labels of queries that were answered earlier. A redelivered label is not new, and not counted."""
        joined = await self._compared([item.example for item in changed])
        right = sum(item.correct for item in joined)
        self.counters.joined_right += right
        self.counters.joined_wrong += len(joined) - right
        if joined and self._on_joined is not None:
            self._on_joined(joined)

    async def _compared(self, given: Sequence[Example]) -> list[Joined]:
        """Those whose query was answered earlier, beside that answer."""
        truths = {example.id: example for example in given}
        predictions = await self._answer("store", lambda: asyncio.to_thread(self._pseudo_labels.rows, list(truths)))
        answers = [p.answer for p in predictions.values()] + [
            gold for id_ in predictions for gold in truths[id_].answers
        ]
        same = await self._answer("embedding", lambda: self._equality.among_async(answers))
        return [
            Joined(
                p.id, p.answer, truths[p.id].answer, p.adapter, p.created_at, is_correct(p.answer, truths[p.id], same)
            )
            for p in predictions.values()
        ]

    async def _answer(self, what: str, operation: Callable[[], Awaitable[T]]) -> T:
        return await until_answered(
            what, operation, self._settings.retry, self.counters.health, self._stop, (TransientError,)
        )


def _is_feedback(item: Example | Retraction) -> bool:
    return isinstance(item, Example) and item.source == FEEDBACK
