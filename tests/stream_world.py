"""A workload on a real database, its stream on an SQLite file, and a labeller that answers by rule: what the intake's
tests are made of.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pydantic_core
from sqlalchemy import Connection

from semievol.config.method import TaskConfig
from semievol.protocols import ExampleIndex
from semievol.tasks.task import Task
from semievol.types import CandidateAnswer, Example, Neighbour, PseudoLabel, Query, Unlabelled
from semievold.config.streams import IntakeSettings, LabelsSettings, RetrySettings, StreamSettings
from semievold.errors import TransientStreamError
from semievold.intake.batches import Told
from semievold.intake.labels import LabelsIntake
from semievold.intake.messages import RecordParser
from semievold.intake.role import Intake
from semievold.store.database import Database
from semievold.store.examples import ExampleStore
from semievold.store.pseudo_labels import PseudoLabelStore
from semievold.store.stores import stores_over
from semievold.streams.opening import open_stream
from semievold.streams.protocol import OutgoingRecord, StreamProducer, StreamRecord

FAST = RetrySettings(initial_s=0.005, max_s=0.02)
ANSWERS = ("even", "odd")


def pseudo_label(query: Query, adapter: str | None = "a1", answer: str | None = "even") -> PseudoLabel:
    """A label with everything set, so that a round trip through the store shows what is lost."""
    entropy = 0.25 if answer else float("inf")
    candidates = (
        CandidateAnswer("greedy", "Even.", answer, entropy),
        CandidateAnswer("sampled", "?", None, float("inf")),
    )
    return PseudoLabel(query, answer, entropy, 0.75, 0.5, True, adapter, (("e1", 0.9), ("e2", 0.1)), candidates)


class RuleLabeller:
    """Answers by the length of the question; `before` may raise or wait first, `left_out` gets no label."""

    def __init__(
        self,
        before: Callable[[Sequence[Query]], object] | None = None,
        left_out: Callable[[Query], Unlabelled | None] = lambda _: None,
    ) -> None:
        self.before = before
        self.left_out = left_out
        self.calls: list[tuple[str, ...]] = []

    async def label(self, queries: Sequence[Query], adapter: str | None, *, told: Told) -> None:
        self.calls.append(tuple(query.id for query in queries))
        if self.before is not None:
            waited = self.before(queries)
            if asyncio.iscoroutine(waited):
                await waited
        for query in queries:
            told(self.left_out(query) or pseudo_label(query, adapter, ANSWERS[len(query.question) % 2]))

    @property
    def answered(self) -> list[str]:
        """Every id that was asked, in order, repetitions included."""
        return [query_id for call in self.calls for query_id in call]


class ListIndex:
    """An ExampleIndex in a dictionary; `before` may raise first."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.examples: dict[str, Example] = {}
        self.before = before

    def upsert(self, examples: Sequence[Example]) -> None:
        self.before()
        self.examples.update({example.id: example for example in examples})

    def delete(self, ids: Sequence[str]) -> None:
        self.before()
        for example_id in ids:
            self.examples.pop(example_id, None)

    def neighbours(self, questions: Sequence[str], k: int) -> list[list[Neighbour]]:
        return [[] for _ in questions]

    def ids(self) -> frozenset[str]:
        return frozenset(self.examples)

    def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def bind() -> AsyncIterator[str | None]:
    yield "a1"


class World:
    """One workload: database, stream, stores and parser under one directory; `stream` may name a real broker.

    Args:
        url: the state, when it is not the SQLite file that holds the stream.
    """

    def __init__(self, directory: Path, *, url: str | None = None, workload: str = "w", **stream: object) -> None:
        self.topics = StreamSettings(**{"poll_interval_s": 0.02, "lock_retry_s": 0.02, **stream})
        self.stream_database = Database(f"sqlite:///{directory / 'state.db'}")
        self.stream_database.migrate()
        self.database = self.stream_database
        if url is not None and not url.startswith("sqlite"):
            self.database = Database(url, workload)
            self.database.migrate()
        self.stream = open_stream(self.topics, self.stream_database)
        self._producer: StreamProducer | None = None
        self.labels = PseudoLabelStore(self.database, workload)
        self.examples = ExampleStore(self.database, workload)
        self.stores = stores_over(self.database, workload, "alias")
        self.feedback = self.stores.feedback
        task = Task(TaskConfig(labels=ANSWERS, max_question_chars=100))
        self.parser = RecordParser(task, max_record_bytes=10_000)

    def intake(self, labeller: object, **options: object) -> Intake:
        settings = IntakeSettings(
            **{
                "batch_size": 4,
                "poll_timeout_s": 0.02,
                "commit_interval_s": 0.0,
                "stop_timeout_s": 5.0,
                "lag_interval_s": 0.01,
                "retry": FAST,
                **{key: value for key, value in options.items() if key in IntakeSettings.model_fields},
            }
        )
        consumer = options.get("consumer") or self.stream.consumer(self.topics.queries, "intake")
        return Intake(
            consumer,
            options.get("producer") or self.producer,
            self.labels,
            self.parser,
            labeller,
            options.get("bind") or bind,
            settings,
            self.topics,
            options.get("ready"),
            on_stored=options.get("on_stored"),
            trial=options.get("trial"),
            transactions=self.stream.transactions(consumer),
            tracing=options.get("tracing"),
            resting=options.get("resting"),
        )

    def labels_intake(self, index: ExampleIndex, **options: object) -> LabelsIntake:
        settings = LabelsSettings(
            **{
                "poll_timeout_s": 0.02,
                "lag_interval_s": 0.01,
                "retry": FAST,
                **{key: value for key, value in options.items() if key in LabelsSettings.model_fields},
            }
        )
        return LabelsIntake(
            self.stream.consumer(self.topics.labels, "labels"),
            self.producer,
            self.examples,
            self.labels,
            index,
            self.parser,
            settings,
            self.topics,
            feedback=self.feedback,
            contradictions=self.stores.contradictions,
            reviews=self.stores.reviews,
            feedback_secret=options.get("feedback_secret"),
            on_joined=options.get("on_joined"),
        )

    @property
    def producer(self) -> StreamProducer:
        if self._producer is None:
            self._producer = self.stream.producer()
        return self._producer

    async def close(self) -> None:
        if self._producer is not None:
            await self._producer.close()
        self.database.close()
        self.stream_database.close()

    async def send(self, topic: str, values: Iterable[object]) -> None:
        """Publish JSON values (bytes go as they are), keyed by their id."""
        records = []
        for value in values:
            key = str(value["id"]) if isinstance(value, dict) and "id" in value else None
            records.append(OutgoingRecord(key, value if isinstance(value, bytes) else pydantic_core.to_json(value)))
        await self.producer.publish(topic, records)

    async def ask(self, *ids: str) -> None:
        await self.send(self.topics.queries, [{"id": i, "question": f"is {i} even?"} for i in ids])

    async def read(self, topic: str, timeout_s: float = 60.0) -> list[StreamRecord]:
        """Everything in the topic."""
        consumer = self.stream.consumer(topic, "reader")
        records: list[StreamRecord] = []
        async with asyncio.timeout(timeout_s):
            written = await self._written(topic)
            while len(records) < written:
                records += await consumer.poll(1000, 0.5)
                consumer.revoked()
        await consumer.close()
        return records

    async def _written(self, topic: str) -> int:
        """How many records the topic holds. A broker that has just started coordinates no group for a moment."""
        while True:
            try:
                return sum(each.lag for each in await asyncio.to_thread(self.stream.offsets, topic, "reader"))
            except TransientStreamError:
                await asyncio.sleep(0.2)

    async def predictions(self, timeout_s: float = 60.0) -> list[dict[str, object]]:
        read = await self.read(self.topics.predictions, timeout_s)
        return [pydantic_core.from_json(record.value) for record in read]

    async def dead_letters(self) -> list[tuple[str, str]]:
        """(reason, source offset) of each."""
        letters = await self.read(self.topics.dead_letter)
        return [(letter.headers["reason"], letter.headers["source_offset"]) for letter in letters]

    def committed(self, group: str, topic: str) -> int:
        """The committed offset, all partitions together."""
        return sum(each.committed for each in self.stream.offsets(topic, group))


def forkserver() -> ForkServerContext:
    """Starts processes in milliseconds: the imports are done once, in the process that forks them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "semievold.store.migrate", "semievold.store.migrations.versions"])
    return context


def die_after(database: Database, writes: int) -> None:
    """Kill this process when the given number of write transactions is durable, and before anyone is told."""
    write, left = database.write, [writes]

    @contextlib.contextmanager
    def counted() -> Iterator[Connection]:
        with write() as connection:
            yield connection
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    database.write = counted  # type: ignore[method-assign]


async def until(reached: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for something that tells nobody when it happens."""
    async with asyncio.timeout(timeout_s):
        while not reached():  # noqa: ASYNC110 - counters and files have no event
            await asyncio.sleep(0.005)


async def run_until(role: Intake | LabelsIntake, reached: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Run the role until `reached`, then stop it; its failure is raised."""
    stop = asyncio.Event()
    task = asyncio.create_task(role.run(stop))
    try:
        await until(lambda: task.done() or reached(), timeout_s)
    finally:
        stop.set()
    await task
