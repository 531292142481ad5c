"""Several intakes on one topic: how much more they label than one.

`python bench/intakes.py [--queries 20000] [--repeats 3] [--answer-s 0] [--answer-s 0.5]`

Processes of the real intake (parts/instant_intake.py) share the 8 partitions of a topic of a real broker and write to
one PostgreSQL, both on this machine. The rate is that of the state's count between the time when each process has
labelled something and the time when nine tenths are done. Before a model that answers at once the processes, the
broker and the database want the same cores: on two of them the ratio says how those are shared. With `--answer-s` the
model takes its time, as a real one does, and an intake waits for it. The claim, on two cores: from one to two processes
at least 1.7 times as much, wherever the cores do not bound it; and every query is labelled once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from parts.full_state import name
from parts.instant_intake import WORKLOAD, ask, instant_labeller

from semievol.types import PseudoLabel
from semievold.config.streams import IntakeSettings, StreamSettings
from semievold.intake.messages import RecordParser
from semievold.intake.role import Intake
from semievold.store.database import Database
from semievold.store.pseudo_labels import PseudoLabelStore
from semievold.streams.kafka.stream import KafkaStream
from tests.servers.kafka import KafkaBroker, missing
from tests.servers.postgres import PostgresServer

PARTITIONS = 8


def topics_of(bootstrap: str, run: int) -> StreamSettings:
    return StreamSettings(
        kind="kafka",
        queries=f"queries-{run}",
        predictions=f"predictions-{run}",
        kafka={"bootstrap_servers": [bootstrap], "partitions": PARTITIONS},  # type: ignore[arg-type]
    )


def label(bootstrap: str, url: str, run: int, answer_s: float, begun: Any, stop: Event) -> None:
    """One intake, in a process of its own, until told. `begun`: set to 1 once it has labelled something."""

    async def main() -> None:
        topics = topics_of(bootstrap, run)
        stream, state = KafkaStream(topics), Database(url, WORKLOAD)
        producer, over = stream.producer(), asyncio.Event()

        @contextlib.asynccontextmanager
        async def bind() -> AsyncIterator[str | None]:
            yield "a1"

        def count(_: Sequence[PseudoLabel], _waited_s: Sequence[float]) -> None:
            begun.value = 1

        with instant_labeller(answer_s) as (labeller, task):
            intake = Intake(
                stream.consumer(topics.queries, "bench"),
                producer,
                PseudoLabelStore(state, WORKLOAD),
                RecordParser(task, topics.max_record_bytes),
                labeller,
                bind,
                IntakeSettings(),
                topics,
                on_stored=count,
            )
            running = asyncio.create_task(intake.run(over))
            await asyncio.to_thread(stop.wait)
            over.set()
            await running
        await producer.close()
        state.close()

    asyncio.run(main())


def rate(bootstrap: str, url: str, run: int, queries: int, processes: int, answer_s: float) -> float:
    """Queries a second of so many processes."""
    state = Database(url, WORKLOAD)
    state.migrate()
    labels = PseudoLabelStore(state, WORKLOAD)
    topics = topics_of(bootstrap, run)
    stream = KafkaStream(topics)
    stream.topics.ensure(topics.predictions)
    asyncio.run(ask(stream, topics.queries, queries, name))
    context = multiprocessing.get_context("spawn")
    stop, begun = context.Event(), [context.Value("i", 0) for _ in range(processes)]
    running = [context.Process(target=label, args=(bootstrap, url, run, answer_s, each, stop)) for each in begun]
    for process in running:
        process.start()
    try:
        while not all(each.value for each in begun):
            time.sleep(0.02)
        began, before = time.perf_counter(), labels.labelled()
        while (done := labels.labelled()) < 0.9 * queries:
            time.sleep(0.02)
        took = time.perf_counter() - began
        while labels.counts()[::2] != (queries, 0):
            time.sleep(0.02)
    finally:
        stop.set()
        for process in running:
            process.join()
    assert labels.counts() == (queries, 0, 0)
    state.close()
    return (done - before) / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=20_000, help="of a run with one process that waits for nothing")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--answer-s", type=float, action="append", help="how long the model takes; may be repeated")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    if (lacking := missing()) is not None:
        print(f"{lacking}; nothing measured")
        return
    server, run = PostgresServer(), 0
    with tempfile.TemporaryDirectory() as directory:
        broker = KafkaBroker(Path(directory) / "broker").start()
        try:
            server.start()
            for answer_s in options.answer_s or [0.0, 0.5]:
                found: dict[int, list[float]] = {count: [] for count in options.processes}
                for repeat in range(options.repeats):
                    for count in options.processes if repeat % 2 == 0 else options.processes[::-1]:
                        run += 1
                        database = server.create_database()
                        found[count].append(rate(broker.bootstrap, database, run, options.queries, count, answer_s))
                alone = statistics.median(found[options.processes[0]])
                print(f"the model answers after {answer_s:g} s:")
                for count, some in found.items():
                    middle = statistics.median(some)
                    spread = f"{min(some):.0f} - {max(some):.0f}"
                    print(
                        f"  {count} processes: {middle:>7.0f} queries/s ({spread}), {middle / alone:.2f} times one",
                        flush=True,
                    )
        finally:
            broker.stop()
            server.close()


if __name__ == "__main__":
    main()
