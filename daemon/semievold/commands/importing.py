"""Puts a file's records on the stream: checked first, all or nothing, unless told otherwise.

Owns reading and reporting; validity is semievold.intake.bulk, file formats are semievol.examples.files. Works whether
or not the daemon runs: the stream keeps what is published.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

from semievol.errors import ConfigError, DataError
from semievol.examples.files import OpenSource
from semievol.examples.json_files import json_object, json_rows
from semievol.examples.records import Row
from semievol.examples.sources import kind_suffix, opened
from semievold.api.retracting import retract
from semievold.config.daemon import DaemonConfig
from semievold.intake.bulk import BulkRecords, What
from semievold.intake.reading import labels_lag
from semievold.rounds import observing
from semievold.store.stores import Stores
from semievold.streams.opening import open_stream
from semievold.streams.protocol import OutgoingRecord

BATCH = 500
BLOCK_BYTES = 1 << 20
MAX_PROBLEMS = 20


async def publish_file(
    config: DaemonConfig, stores: Stores, what: What, source: str, *, skip_invalid: bool, raw: bool
) -> dict[str, Any]:
    """Publish `queries` or `labels` from a file, a data set of the hub (`hub:NAME`) or standard input (`-`).

    Raises:
        DataError: a record is invalid (then nothing was published; from standard input, what came before it) or the
            file is unreadable.
    """
    delivery = _Delivery(config, what, source, skip_invalid=skip_invalid)
    if source == "-":  # published as it comes: a pipe may never end
        batches = delivery.arriving(raw=raw)
    else:
        found = _raw_lines(Path(source)) if raw else delivery.of_file()
        batches = _batches(iter(list(found)))
    producer = open_stream(config.stream, stores.database).producer()
    published = 0
    try:
        for batch in batches:
            await producer.publish(delivery.topic, batch)
            published += len(batch)
    finally:
        await producer.close()
    report = {
        "topic": delivery.topic,
        "published": published,
        "repeated": delivery.repeated,
        "invalid": len(delivery.problems),
        "problems": delivery.problems[:MAX_PROBLEMS],
        "form": delivery.said,
    }
    if what == "labels":
        report["waiting_for"] = await asyncio.to_thread(_outlook, config, stores, published)
    return report


def _outlook(config: DaemonConfig, stores: Stores, published: int) -> str:
    """What the next round waits for, now that these labels are on the stream."""
    counts, stopped = stores.examples.counts(), observing.held(config, stores).get("control")
    if not observing.RoundObserver(config, stores).warm_ended():
        most = counts.training_questions + counts.holdout_questions + published
        if (lacking := observing.short_of(config, most)) is not None:
            return f"at most {lacking}"
    if stopped is not None:
        return stopped
    unread = labels_lag(config, stores)
    return f"{unread} labels to be read" if unread else observing.waiting_for(config, stores)


class _Delivery:
    """The records of one source, checked, in the order in which they come."""

    def __init__(self, config: DaemonConfig, what: What, source: str, *, skip_invalid: bool) -> None:
        self._records = BulkRecords(config, what, once=source != "-")
        self._source = source
        self._file = OpenSource(
            source, config.data, "query" if what == "queries" else "example", config.task.instruction
        )
        self._skip_invalid = skip_invalid
        self.topic = self._records.topic
        self.problems: list[str] = []

    @property
    def repeated(self) -> int:
        return self._records.repeated

    @property
    def said(self) -> str | None:
        return self._records.said if self._source == "-" else self._file.said

    def of_file(self) -> Iterator[OutgoingRecord]:
        for place, record in self._file:
            yield from self._checked(str(place), record, own=True)

    def arriving(self, *, raw: bool) -> Iterator[list[OutgoingRecord]]:
        """Of standard input: JSON lines as they come, or one JSON array when it has ended."""
        first = 1
        arrivals = _arrivals(sys.stdin.fileno())
        for lines in arrivals:
            if not raw and first == 1 and b"".join(lines).removeprefix(BOM_UTF8).lstrip().startswith(b"["):
                whole = b"\n".join([*lines, *(line for more in arrivals for line in more)])
                yield from _batches(self._of_array(whole))
                return
            yield from _batches(self._of_lines(lines, first, raw=raw))
            first += len(lines)

    def _of_lines(self, lines: Sequence[bytes], first: int, *, raw: bool) -> Iterator[OutgoingRecord]:
        for number, line in enumerate(lines, first):
            value = line.removeprefix(BOM_UTF8).strip()
            if value and raw:
                yield _unchecked(value)
            elif value:
                yield from self._checked(f"-:{number}", _json_object(value))

    def _of_array(self, whole: bytes) -> Iterator[OutgoingRecord]:
        for place, row in json_rows(BufferedReader(BytesIO(whole)), "-"):
            yield from self._checked(str(place), row)

    def _checked(self, place: str, row: Row | DataError, *, own: bool = False) -> Iterator[OutgoingRecord]:
        try:
            if isinstance(row, DataError):
                raise row
            record = self._records.record(row, place) if own else self._records.row(row, place)
        except DataError as error:
            problem = f"{place}: {error}"
            if not self._skip_invalid:
                raise DataError(f"{problem} (--skip-invalid publishes the rest)") from error
            self.problems.append(problem)
            return
        if record is not None:
            yield record


def _json_object(value: bytes) -> Row | DataError:
    try:
        return json_object(value.decode())
    except UnicodeDecodeError as error:
        return DataError(f"byte {error.start + 1} is not valid UTF-8; send UTF-8")


def _raw_lines(path: Path) -> Iterator[OutgoingRecord]:
    """The lines as they are, for the daemon to judge."""
    if kind_suffix(path) not in (".jsonl", ".ndjson"):
        raise ConfigError(f"--raw: publishes JSON lines as they are, and {path.name} holds none; leave it out")
    with opened(path) as file:
        for line in file:
            if value := line.strip():
                yield _unchecked(value)


def _unchecked(value: bytes) -> OutgoingRecord:
    # Compacted topics, as labels may be, take no record without a key.
    return OutgoingRecord(hashlib.blake2b(value, digest_size=8).hexdigest(), value)


async def retract_labels(
    config: DaemonConfig, stores: Stores, ids: Sequence[str], *, now: bool, wait_s: float = 20.0
) -> dict[str, Any]:
    """Take labels back, with all that they taught; see `semievold.api.retracting`.

    Raises:
        DataError: one of them can be no id.
    """
    producer = open_stream(config.stream, stores.database).producer()
    try:
        return await retract(stores, producer, config.stream.labels, ids, now=now, wait_s=wait_s)
    finally:
        await producer.close()


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
