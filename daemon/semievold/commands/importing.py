"""Puts a file's records on the stream: checked first, all or nothing, unless told otherwise.

Owns reading and reporting; validity is semievold.intake.messages, file formats are semievol.examples.files. Works
whether or not the daemon runs: the stream keeps what is published.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from semievol.errors import DataError
from semievol.examples.files import read_examples, read_queries
from semievol.tasks.task import Task
from semievold.config.daemon import DaemonConfig
from semievold.errors import PoisonRecord
from semievold.intake.messages import RecordParser, label_record, query_record
from semievold.store.stores import Stores
from semievold.streams.opening import open_stream
from semievold.streams.protocol import OutgoingRecord, StreamRecord

BATCH = 500
BLOCK_BYTES = 1 << 20
MAX_PROBLEMS = 20


async def publish_file(
    config: DaemonConfig, stores: Stores, what: str, source: str, *, skip_invalid: bool, raw: bool
) -> dict[str, Any]:
    """Publish `queries` or `labels` from a file or standard input (`-`).

    Raises:
        DataError: a record is invalid (then nothing was published; from standard input, what came before it) or the
            file is unreadable.
    """
    task = Task(config.task)
    topic = config.stream.queries if what == "queries" else config.stream.labels
    parser = RecordParser(task, config.stream.max_record_bytes)
    parse: Callable[[StreamRecord], Any] = parser.query if what == "queries" else parser.label
    problems: list[str] = []

    def checked(lines: Iterable[bytes], first: int = 1) -> Iterator[OutgoingRecord]:
        for number, line in enumerate(lines, first):
            value = line.strip()
            if not value:
                continue
            if raw:
                # Compacted topics, as labels may be, take no record without a key.
                yield OutgoingRecord(hashlib.blake2b(value, digest_size=8).hexdigest(), value)
                continue
            try:
                parsed = parse(StreamRecord(topic, 0, number, None, value, {}, 0.0))
            except PoisonRecord as poison:
                problem = f"{source}:{number}: {poison.detail}"
                if not skip_invalid:
                    raise DataError(f"{problem} (--skip-invalid publishes the rest)") from poison
                problems.append(problem)
                continue
            yield OutgoingRecord(parsed.id, value)

    def arriving() -> Iterator[list[OutgoingRecord]]:
        first = 1
        for lines in _arrivals(sys.stdin.fileno()):
            yield from _batches(checked(lines, first))
            first += len(lines)

    producer = open_stream(config.stream, stores.database).producer()
    published = 0
    try:
        if source == "-":  # published as it comes: a pipe may never end
            batches = arriving()
        else:
            batches = _batches(iter(list(_file_records(Path(source), what, task, checked))))
        for batch in batches:
            await producer.publish(topic, batch)
            published += len(batch)
    finally:
        await producer.close()
    return {"topic": topic, "published": published, "invalid": len(problems), "problems": problems[:MAX_PROBLEMS]}


async def retract_labels(config: DaemonConfig, stores: Stores, ids: Sequence[str]) -> dict[str, Any]:
    """Publish a null value for each id: the labels role takes these examples back."""
    producer = open_stream(config.stream, stores.database).producer()
    await producer.publish(config.stream.labels, [OutgoingRecord(example_id, None) for example_id in ids])
    await producer.close()
    return {"topic": config.stream.labels, "retracted": len(ids)}


def _file_records(
    path: Path, what: str, task: Task, checked: Callable[[BinaryIO], Iterator[OutgoingRecord]]
) -> Iterator[OutgoingRecord]:
    if path.suffix in (".csv", ".parquet"):
        if what == "queries":
            yield from map(query_record, read_queries(path, task))
        else:
            yield from map(label_record, read_examples(path, task))
        return
    try:
        with path.open("rb") as file:
            yield from checked(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _arrivals(descriptor: int) -> Iterator[list[bytes]]:
    """The lines of a pipe: at every look those that are there, so that none waits for the next one to be written."""
    unfinished = b""
    while block := os.read(descriptor, BLOCK_BYTES):
        *lines, unfinished = (unfinished + block).split(b"\n")
        yield lines
    yield [unfinished]


def _batches(records: Iterator[OutgoingRecord]) -> Iterator[list[OutgoingRecord]]:
    """At most BATCH at a time; what came before an invalid record is handed over before its error."""
    batch: list[OutgoingRecord] = []
    try:
        for record in records:
            batch.append(record)
            if len(batch) == BATCH:
                yield batch
                batch = []
    except DataError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
