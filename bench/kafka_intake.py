"""From Kafka to Kafka in one process: the intake when the model answers instantly, beside kafka-python's bare loop.

`python bench/kafka_intake.py [--queries 10000] [--repeats 5] [--batch 128]`

The real Intake (see parts/instant_intake.py; state in SQLite) reads the queries topic and writes the predictions
topic of a real broker on this machine. The bare loop is what kafka-python alone does with the same records: poll, send
as many records of a prediction's size, flush, and commit as often as the intake does. Every run has topics and a
process of its own; the kinds alternate, medians are shown. `once` is the intake with stream.kafka.exactly_once,
`watched` the one beside which everything looks on that a process of all roles has (parts/everything_on.py): metrics
that are scraped, traces, drift, shadow pairs.
The claims: at least 0.25 of the bare loop, and 2,000 queries/s, without it; watched at least 0.95 of unwatched.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from parts.everything_on import run_watched
from parts.instant_intake import LABELS, Clock, Run, ask, fill, run_intake

from semievol.types import PseudoLabel, Query
from semievold.config.streams import IntakeSettings, StreamSettings
from semievold.intake.messages import prediction_record
from semievold.store.database import Database
from semievold.streams.kafka.stream import KafkaStream
from tests.servers.kafka import KafkaBroker, missing

ROWS = 10_000
"""Pseudo-labels in the store before a run."""


def run_bare(bootstrap: str, topics: StreamSettings, settings: IntakeSettings, queries: int) -> Run:
    """Poll, send, flush, commit: what any Python program with this client pays."""
    from kafka import KafkaConsumer, KafkaProducer

    example = PseudoLabel(Query("query-1", "?"), LABELS[0], 0.1, 1.0, 0.9, False, "a1", (("example-1", 0.5),) * 3, ())
    value = prediction_record(example).value
    options: dict[str, Any] = {"bootstrap_servers": bootstrap, "metrics_enabled": False}
    consumer = KafkaConsumer(
        topics.queries, group_id="bench", auto_offset_reset="earliest", enable_auto_commit=False, **options
    )
    producer = KafkaProducer(acks="all", enable_idempotence=True, **options)
    consumer.poll(0)
    started = Clock()
    seen, next_commit = 0, 0.0
    while seen < queries:
        for records in consumer.poll(500).values():
            for record in records:
                producer.send(topics.predictions, key=record.key, value=value)
            seen += len(records)
        producer.flush()
        if time.monotonic() >= next_commit:
            next_commit = time.monotonic() + settings.commit_interval_s
            consumer.commit()
    consumer.commit()
    run = started.run(queries)
    producer.close()
    consumer.close()
    return run


def measure(kind: str, bootstrap: str, filled: Path, run: int, queries: int, batch: int, answer: Connection) -> None:
    """One run, in a process of its own."""
    topics = StreamSettings(
        kind="kafka",
        queries=f"queries-{run}",
        predictions=f"predictions-{run}",
        kafka={"bootstrap_servers": [bootstrap], "partitions": 3, "exactly_once": kind == "once"},  # type: ignore[arg-type]
    )
    settings = IntakeSettings(batch_size=batch)

    async def main() -> Run:
        stream = KafkaStream(topics)
        await ask(stream, topics.queries, queries)
        await asyncio.to_thread(stream.topics.ensure, topics.predictions)
        if kind == "watched":
            return await run_watched(Database(f"sqlite:///{filled}"), stream, topics, settings, queries)
        if kind != "bare loop":
            return await run_intake(Database(f"sqlite:///{filled}"), stream, topics, settings, queries)
        return await asyncio.to_thread(run_bare, bootstrap, topics, settings, queries)

    answer.send(asdict(asyncio.run(main())))


def run_apart(*arguments: Any) -> Run:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(*arguments, sender))
    process.start()
    run = Run(**receiver.recv())
    process.join()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000, help="queries per run")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    parser.add_argument("--batch", type=int, default=128, help="intake.batch_size")
    options = parser.parse_args()
    if (lacking := missing()) is not None:
        print(f"{lacking}; nothing measured")
        return
    runs: dict[str, list[Run]] = {"bare loop": [], "intake": [], "once": [], "watched": []}
    with tempfile.TemporaryDirectory() as directory:
        broker = KafkaBroker(Path(directory) / "broker").start()
        try:
            for repeat in range(options.repeats):
                kinds = list(runs)
                for kind in kinds if repeat % 2 == 0 else kinds[::-1]:
                    number = sum(map(len, runs.values()))
                    filled = Path(directory) / f"state-{number}.db"
                    fill(filled, ROWS)
                    run = run_apart(kind, broker.bootstrap, filled, number, options.queries, options.batch)
                    runs[kind].append(run)
        finally:
            broker.stop()
    print(f"{'run':<10} {'queries/s':>10} {'min':>8} {'max':>8} {'CPU us':>7} {'resident MiB':>13}")
    for kind, some in runs.items():
        rates = [run.queries_per_s for run in some]
        cpu, memory = statistics.median(run.cpu_us for run in some), max(run.resident_mib for run in some)
        spread = f"{min(rates):>8.0f} {max(rates):>8.0f}"
        print(f"{kind:<10} {statistics.median(rates):>10.0f} {spread} {cpu:>7.0f} {memory:>13.0f}")
    bare, intake, once, watched = (statistics.median(run.queries_per_s for run in some) for some in runs.values())
    print(f"intake / bare loop: {intake / bare:.2f}; once / intake: {once / intake:.2f}")
    print(f"watched / intake: {watched / intake:.2f}")


if __name__ == "__main__":
    main()
