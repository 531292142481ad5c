"""The intake role: polls the queries topic, bounds the work in flight, commits what is finished, stops cleanly.

What happens to a batch is in `semievold.intake.batches`; what is committed when, and what if that fails, in
`semievold.intake.commits`; which offset may be, in `semievold.intake.offsets`.
Invariant: an offset is committed only when every record below it has a durable pseudo-label and prediction, was
recognised as a redelivery, or is in the dead-letter topic.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from semievol.errors import TransientError
from semievold.config.streams import IntakeSettings, StreamSettings
from semievold.intake.batches import Bind, Labeller, QueryBatches, Stored
from semievold.intake.commits import Commits
from semievold.intake.counters import IntakeCounters
from semievold.intake.exactly_once import TransactionalCommits
from semievold.intake.messages import RecordParser
from semievold.retry import Pulse, Stopped, set_within, until_answered
from semievold.rollout.stream import StreamTrial
from semievold.store.pseudo_labels import PseudoLabelStore
from semievold.streams.protocol import OutgoingRecord, StreamConsumer, StreamProducer, StreamRecord, Transactions
from semievold.tracing import Tracing

logger = logging.getLogger(__name__)

LOOP_LIMIT_S = 120.0
"""A turn of the loop waits for a poll, a commit and a measurement, each of which has a time of its own."""
BATCH_LIMIT_S = 1800.0
"""No batch ended for so long while some are in flight: slow labelling ends some, only a hang ends none."""


class Intake:
    """Runs one consumer of the queries topic.

    Args:
        bind: lends the serving adapter for one call of the labeller.
        ready: while it is not set nothing is read (the warm adapter does not exist yet). None: never held.
        on_stored: told of the labels that became durable (metrics).
        trial: the version that answers some of the queries instead; None: none ever does.
        transactions: publish what the consumer's records cause together with their offsets; None: before their commit.
        tracing: None: nothing is traced.
        resting: why nobody can label for a while; then nothing is read. None: never so.
    """

    def __init__(
        self,
        consumer: StreamConsumer,
        producer: StreamProducer,
        store: PseudoLabelStore,
        parser: RecordParser,
        labeller: Labeller,
        bind: Bind,
        settings: IntakeSettings,
        topics: StreamSettings,
        ready: asyncio.Event | None = None,
        *,
        on_stored: Stored | None = None,
        transactions: Transactions | None = None,
        trial: StreamTrial | None = None,
        tracing: Tracing | None = None,
        resting: Callable[[], str | None] | None = None,
    ) -> None:
        self._consumer = consumer
        self._resting = resting or (lambda: None)
        self._rested: str | None = None
        self._transactions = transactions
        self._batches = QueryBatches(
            parser,
            labeller,
            bind,
            store,
            producer,
            topics,
            settings.retry,
            on_stored,
            None if transactions is None else self._causes,
            trial,
            tracing,
        )
        mark, health = self._batches.mark_published, self._batches.counters.health
        self._commits = (
            Commits(consumer, mark, settings.commit_interval_s, health)
            if transactions is None
            else TransactionalCommits(
                consumer, transactions, self._batches.published, mark, settings.commit_interval_s, health
            )
        )
        self._settings = settings
        self._ready = ready
        self._running: set[asyncio.Task[None]] = set()
        self._finished = asyncio.Event()  # some record, or batch, since the last step
        self.loop_pulse = Pulse("the intake", LOOP_LIMIT_S)
        self.batch_pulse = Pulse("every batch in flight", BATCH_LIMIT_S)
        self._next_lag = 0.0
        self._next_republish = time.monotonic() + settings.republish_interval_s

    @property
    def counters(self) -> IntakeCounters:
        return self._batches.counters

    @property
    def stuck(self) -> str | None:
        """Why nothing is going to move; None: it does."""
        return self.loop_pulse.stuck or self.batch_pulse.stuck

    @property
    def held(self) -> str | None:
        """What the queries wait for; None: they are read."""
        waiting = f"{self.counters.lag} queries wait" if self.counters.lag else "queries wait"
        if self._ready is None or self._ready.is_set():
            return self._consumer.waits_for if (resting := self._resting()) is None else f"{waiting}: {resting}"
        return f"{waiting} until the warm round has decided (rounds.wait_for_warm)"

    async def backlog(self) -> int:
        """Records not committed yet, measured now.

        Raises:
            TransientStreamError: the stream did not answer.
        """
        return await self._consumer.lag()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish what is in flight within the deadline, commit, and leave the group.

        Raises:
            FatalError, or whatever unexpected a batch raised: the process should end and be restarted.
        """
        try:
            await self._republish(0.0, stop)
            while not stop.is_set():
                await self._step(stop)
        except Stopped:
            pass
        finally:
            await self._finish()

    async def _step(self, stop: asyncio.Event) -> None:
        """One poll, and the start of one batch where there is room.

        It always suspends: neither a poll for nothing nor what has an answer at hand does, and others want the loop.
        """
        await asyncio.sleep(0)
        self.loop_pulse.beat()
        self._raise_failures()
        timeout_s = self._settings.poll_timeout_s
        held = (self._ready is not None and not self._ready.is_set()) or self._rests()
        if held:
            self._batches.held_until = time.time()
        self._finished.clear()
        room = 0 if held else self._room()
        await self._poll(room, stop)
        await self._commits.commit()
        await self._housekeep(stop)
        if held:
            await set_within(stop, min(timeout_s, 0.1))
        elif not room:
            # Without a batch there is a transaction under way, which tells nobody when it ends.
            await set_within(self._finished, timeout_s if self._running else min(timeout_s, 0.1))

    def _rests(self) -> bool:
        """Whether nobody can label for a while; said when it begins and ends."""
        resting = self._resting()
        if (resting is None) is not (self._rested is None):
            logger.info("queries are read again" if resting is None else f"queries wait: {resting}")
        self._rested = resting
        return resting is not None

    def _room(self) -> int:
        """Records that may be read now: by records, for a late one must not hold the places of a whole batch.

        At least half a batch at a time, or nothing: what is answered together costs less.
        """
        if self._commits.full:
            return 0
        size = self._settings.batch_size
        room = min(size, self._settings.max_in_flight_batches * size - self._commits.in_flight)
        return room if room >= max(1, size // 2) else 0

    async def _poll(self, max_records: int, stop: asyncio.Event) -> None:
        counters, settings = self.counters, self._settings
        records = await until_answered(
            "stream",
            lambda: self._consumer.poll(max_records, settings.poll_timeout_s),
            settings.retry,
            counters.health,
            stop,
        )
        self._commits.delivered(records)
        if records:
            counters.received += len(records)
            if not self._running:
                self.batch_pulse.beat()
            task = asyncio.create_task(self._work(records, stop), name=f"intake-batch-{counters.received}")
            self._running.add(task)
        counters.in_flight = self._commits.in_flight

    async def _work(self, records: list[StreamRecord], stop: asyncio.Event) -> None:
        try:
            await self._batches.work(records, stop, self._done)
        except Stopped:
            pass
        finally:
            self._finished.set()

    def _causes(self, topic: str, caused: Sequence[tuple[StreamRecord, OutgoingRecord]]) -> None:
        assert isinstance(self._commits, TransactionalCommits)
        self._commits.causes(topic, caused)

    def _done(self, records: Sequence[StreamRecord]) -> None:
        self.batch_pulse.beat()
        self._commits.finished(records)
        self.counters.in_flight = self._commits.in_flight
        self._finished.set()

    def _raise_failures(self) -> None:
        for task in [task for task in self._running if task.done()]:
            self._running.discard(task)
            if not self._running:
                self.batch_pulse.rest()
            task.result()

    async def _housekeep(self, stop: asyncio.Event) -> None:
        now = time.monotonic()
        if now >= self._next_lag:
            self._next_lag = now + self._settings.lag_interval_s
            try:
                self.counters.lag = await self._consumer.lag()
            except TransientError as error:
                self.counters.health.failed("lag", error)
            else:
                self.counters.health.answered("lag")
                self._say_pace()
        if now >= self._next_republish:
            self._next_republish = now + self._settings.republish_interval_s
            await self._republish(self._settings.republish_interval_s, stop)

    async def _republish(self, older_than_s: float, stop: asyncio.Event) -> None:
        """What processes that died left undone or unmarked."""
        if (transactions := self._transactions) is not None:
            health, retry = self.counters.health, self._settings.retry
            offsets = await until_answered("stream", transactions.passed, retry, health, stop)
            await self._batches.passed(offsets, stop)
        await self._batches.republish(older_than_s, stop)

    def _say_pace(self) -> None:
        at_once = self._settings.max_in_flight_batches * self._settings.batch_size
        if (line := self.counters.pace.line(self.counters.lag, at_once)) is not None:
            late = self.counters.degraded
            logger.info("%s%s", line, f" ({late})" if late else "")

    async def _finish(self) -> None:
        """Let batches end within the deadline, commit them, and leave the group; what did not end comes again."""
        try:
            if self._running:
                done, late = await asyncio.wait(self._running, timeout=self._settings.stop_timeout_s)
                for task in late:
                    task.cancel()
                await asyncio.gather(*late, return_exceptions=True)
                if late:
                    logger.warning("%d batches did not end before the stop; they are delivered again", len(late))
                for task in done:
                    if (error := task.exception()) is not None:
                        logger.error("a batch failed during the stop", exc_info=error)
            await self._commits.commit_last()
        finally:
            if self._transactions is not None:
                await self._transactions.close()
            await self._consumer.close()
