"""The daemon's own ceiling: queries per second and memory of the intake when the model answers instantly.

`python bench/intake.py [--rows 10000 --rows 100000] [--queries 5000] [--repeats 5]`

The real Intake with the real CollaborativeLabeller (hashing embedder, an index of 500 examples in memory, a generator
that answers at once), SQLite store and local stream, on a store that holds the given rows already; beside it the bare
loop over the same stream: consume a batch of the same size, publish, commit, nothing else. `bare, lazy` commits no
more often than the intake does. Every run starts from a copy of the same file in a process of its own; the kinds
alternate, medians are shown.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from parts.instant_intake import LABELS, Clock, Run, ask, fill, run_intake

from semievol.types import PseudoLabel, Query
from semievold.config.streams import IntakeSettings, StreamSettings
from semievold.intake.messages import prediction_record
from semievold.store.database import Database
from semievold.streams.local import LocalStream
from semievold.streams.protocol import OutgoingRecord


async def run_bare(
    stream: LocalStream, topics: StreamSettings, settings: IntakeSettings, queries: int, commit_interval_s: float
) -> Run:
    """Consume, publish, commit: what any program over this stream pays."""
    example = PseudoLabel(Query("query-1", "?"), LABELS[0], 0.1, 1.0, 0.9, False, "a1", (("example-1", 0.5),) * 3, ())
    value = prediction_record(example).value
    consumer, producer = stream.consumer(topics.queries, "bench"), stream.producer()
    started = Clock()
    seen, next_commit, next_offsets = 0, 0.0, {0: 0}
    while seen < queries:
        records = await consumer.poll(settings.batch_size, settings.poll_timeout_s)
        await producer.publish(topics.predictions, [OutgoingRecord(record.key, value) for record in records])
        seen += len(records)
        next_offsets = {0: records[-1].offset + 1}
        if time.monotonic() >= next_commit:
            next_commit = time.monotonic() + commit_interval_s
            await consumer.commit(next_offsets)
    await consumer.commit(next_offsets)
    return started.run(queries)


def measure(kind: str, path: Path, queries: int, answer: Connection) -> None:
    """One run, in a process of its own."""

    async def main() -> Run:
        database, topics, settings = Database(f"sqlite:///{path}"), StreamSettings(), IntakeSettings()
        stream = LocalStream(database, topics)
        await ask(stream, topics.queries, queries)
        if kind != "intake":
            interval_s = settings.commit_interval_s if kind == "bare, lazy" else 0.0
            return await run_bare(stream, topics, settings, queries, interval_s)
        return await run_intake(database, stream, topics, settings, queries)

    answer.send(asdict(asyncio.run(main())))


def run_apart(kind: str, filled: Path, queries: int) -> Run:
    """Measure on a fresh copy of the filled file."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=filled.parent) as directory:
        path = Path(directory) / "state.db"
        shutil.copy(filled, path)
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=measure, args=(kind, path, queries, sender))
        process.start()
        run = Run(**receiver.recv())
        process.join()
        return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, action="append", help="rows in the store before the run; may be repeated")
    parser.add_argument("--queries", type=int, default=5000, help="queries per run")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    options = parser.parse_args()
    print(f"{'rows':>8}  {'run':<10} {'queries/s':>10} {'min':>8} {'max':>8} {'CPU us':>7} {'resident MiB':>13}")
    for rows in options.rows or [10_000, 100_000]:
        with tempfile.TemporaryDirectory() as directory:
            filled = Path(directory) / "filled.db"
            fill(filled, rows)
            runs: dict[str, list[Run]] = {"bare loop": [], "bare, lazy": [], "intake": []}
            for repeat in range(options.repeats):
                kinds = list(runs)
                for kind in kinds if repeat % 2 == 0 else kinds[::-1]:
                    runs[kind].append(run_apart(kind, filled, options.queries))
        for kind, some in runs.items():
            rates = [run.queries_per_s for run in some]
            memory = max(run.resident_mib for run in some)
            print(
                f"{rows:>8}  {kind:<10} {statistics.median(rates):>10.0f} {min(rates):>8.0f} {max(rates):>8.0f} "
                f"{statistics.median(run.cpu_us for run in some):>7.0f} {memory:>13.0f}"
            )
        bare, lazy, intake = (statistics.median(run.queries_per_s for run in some) for some in runs.values())
        print(f"{rows:>8}  intake / bare loop: {intake / bare:.2f}   intake / bare, lazy: {intake / lazy:.2f}")


if __name__ == "__main__":
    main()
