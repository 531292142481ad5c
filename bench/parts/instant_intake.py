"""What the benchmarks of the intake share: the queries, a generator that answers at once, and one measured run.

The Intake, the CollaborativeLabeller, the store and the stream are the real ones; only the model is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from semievol.config.method import LabellingConfig, TaskConfig
from semievol.protocols import Generator, Tell
from semievol.tasks.task import Task
from semievol.types import CandidateAnswer, Completion, Example, GenerationRequest, PseudoLabel, Query
from semievold.config.streams import IntakeSettings, StreamSettings
from semievold.garbage import set_aside_what_was_built
from semievold.intake.messages import RecordParser, query_record
from semievold.intake.role import Intake
from semievold.store.database import Database
from semievold.store.pseudo_labels import NewLabel, PseudoLabelStore, query_hash
from semievold.streams.protocol import Stream

if TYPE_CHECKING:
    from semievol.labelling.collaboration import CollaborativeLabeller
    from semievold.intake.batches import Stored
    from semievold.tracing import Tracing

LABELS = tuple(f"intent {number}" for number in range(20))
TEXT = """what is my card balance please transfer money to the account of noel and tell me when it will arrive how do
    i change the pin of a lost travel card book flight hotel table for two tomorrow weather in paris"""
WORDS = TEXT.split()
WORKLOAD = "bench"
EXAMPLES = 500


@dataclass(frozen=True)
class Run:
    """One measurement."""

    queries_per_s: float
    cpu_us: float
    """CPU time per query, microseconds: says the same on a busy machine."""
    resident_mib: float
    """Peak of the process, the imports and the queries that it wrote first included."""


class Clock:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def run(self, queries: int) -> Run:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Run(queries / wall, cpu / queries * 1e6, resident)


class InstantGenerator(Generator):
    """Answers at once, or after a while. For half of the queries the two configurations differ, so that the second
    stage runs too.
    """

    def __init__(self, answer_s: float = 0.0) -> None:
        self._answer_s = answer_s

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        if self._answer_s:
            await asyncio.sleep(self._answer_s)
        for place, request in enumerate(requests):
            text = LABELS[request.seed % 2]
            done = Completion(text, (5, 6, 7), (-0.1, -0.2, -0.05), "stop", request.adapter, 120)
            tell(place, [done] * request.samples)

    async def loaded_adapters(self) -> frozenset[str]:
        return frozenset()

    async def load_adapter(self, name: str, path: Path) -> None: ...

    async def unload_adapter(self, name: str) -> None: ...

    async def close(self) -> None: ...


def question(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=10)) + "?"


def fill(path: Path, rows: int) -> None:
    """A store that holds so many published pseudo-labels."""
    rng = random.Random(rows)
    database = Database(f"sqlite:///{path}")
    database.migrate()
    store = PseudoLabelStore(database, WORKLOAD)
    candidates = tuple(CandidateAnswer("sampled", LABELS[0], LABELS[0], 0.12) for _ in range(4))
    near = tuple((f"example-{number}", 0.5) for number in range(3))
    for start in range(0, rows, 1000):
        labels = [
            PseudoLabel(Query(f"stored-{n}", question(rng)), LABELS[0], 0.1, 1.0, 0.9, False, "a1", near, candidates)
            for n in range(start, min(start + 1000, rows))
        ]
        store.add([NewLabel(label, query_hash(label.query), "stored", 0, start) for label in labels])
        store.mark_published(label.query.id for label in labels)
    database.close()


async def ask(
    stream: Stream, topic: str, count: int, name: Callable[[int], str] = lambda number: f"query-{number}"
) -> None:
    """So many queries, with ids of that form."""
    rng = random.Random(1)
    producer = stream.producer()
    for start in range(0, count, 500):
        queries = [Query(name(n), question(rng)) for n in range(start, min(start + 500, count))]
        await producer.publish(topic, [query_record(query) for query in queries])
    await producer.close()


async def run_intake(
    database: Database,
    stream: Stream,
    topics: StreamSettings,
    settings: IntakeSettings,
    queries: int,
    tell: Stored | None = None,
    tracing: Tracing | None = None,
) -> Run:
    """The real intake before a model that answers at once. `tell`: of what is stored; `tracing`: as the intake's."""
    with instant_labeller() as (labeller, task):
        return await label_stream(database, stream, topics, settings, queries, labeller, task, "a1", tell, tracing)


@contextlib.contextmanager
def instant_labeller(answer_s: float = 0.0) -> Iterator[tuple[CollaborativeLabeller, Task]]:
    """The real labeller over an index of examples, before a model that answers after so many seconds, however much it
    is asked.
    """
    from semievol.examples.embedding.hashing import HashingEmbedder
    from semievol.examples.resident import ResidentExampleIndex
    from semievol.labelling.collaboration import CollaborativeLabeller

    rng = random.Random(2)
    index = ResidentExampleIndex(HashingEmbedder())
    index.upsert([Example(Query(f"example-{n}", question(rng)), rng.choice(LABELS)) for n in range(EXAMPLES)])
    task = Task(TaskConfig(labels=LABELS))
    yield CollaborativeLabeller(InstantGenerator(answer_s), index, task, LabellingConfig(), 0), task
    index.close()


async def label_stream(
    database: Database,
    stream: Stream,
    topics: StreamSettings,
    settings: IntakeSettings,
    queries: int,
    labeller: CollaborativeLabeller,
    task: Task,
    adapter: str | None,
    tell: Stored | None = None,
    tracing: Tracing | None = None,
) -> Run:
    """The real intake, until so many queries are labelled, published and committed."""

    @contextlib.asynccontextmanager
    async def bind() -> AsyncIterator[str | None]:
        yield adapter

    stop, producer = asyncio.Event(), stream.producer()

    def count(labels: Sequence[PseudoLabel], waited_s: Sequence[float]) -> None:
        if tell is not None:
            tell(labels, waited_s)
        if intake.counters.labelled == queries:
            stop.set()  # what is in flight is published and committed before the intake ends

    consumer = stream.consumer(topics.queries, "bench")
    intake = Intake(
        consumer,
        producer,
        PseudoLabelStore(database, WORKLOAD),
        RecordParser(task, topics.max_record_bytes),
        labeller,
        bind,
        settings,
        topics,
        on_stored=count,
        transactions=stream.transactions(consumer),
        tracing=tracing,
    )
    set_aside_what_was_built()  # as the daemon does before its intake runs
    started = Clock()
    await intake.run(stop)
    run = started.run(queries)
    await producer.close()
    assert intake.counters.published == queries
    return run
