"""What one request to `/v1/queries` or `/v1/labels` brings: records in bulk, each with its result.

Owns the shapes of a body and of a result. No I/O. Invariant: every record of the body is either taken, with its id, or
named with its number, its field and what is wrong.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from semievol.errors import DataError
from semievol.examples.column_names import known_names
from semievol.examples.json_files import below, json_document, json_object
from semievol.examples.records import Row, kind_of
from semievold.config.daemon import DaemonConfig
from semievold.intake.bulk import BulkRecords, What
from semievold.streams.protocol import OutgoingRecord

_FIELD = re.compile(r"(?:field ')?([A-Za-z_][\w.\[\]]*)'?: ")


@dataclass(frozen=True, slots=True)
class Problem:
    """A record that is wrong; numbers count from 0."""

    record: int
    detail: str

    def as_json(self) -> dict[str, Any]:
        named = _FIELD.match(self.detail)
        return {"record": self.record, "field": named.group(1) if named else None, "detail": self.detail}


@dataclass(slots=True)
class Delivery:
    """What came: the records to publish, and the result of each of the body's."""

    topic: str
    said: str | None = None
    records: list[OutgoingRecord] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_delivery(config: DaemonConfig, what: What, body: bytes) -> Delivery:
    """Check `{"records": [...]}`, a JSON array, one object, or one object a line, in any form that files have.

    A record that says the same as an earlier one of the body is taken once.
    """
    checks = BulkRecords(config, what)
    delivery = Delivery(checks.topic)
    for number, row in enumerate(_rows(body, known_names(config.data))):
        try:
            if isinstance(row, DataError):
                raise row
            record = checks.row(row, f"record {number}")
        except DataError as error:
            delivery.problems.append(Problem(number, str(error)))
            continue
        if record is None:
            delivery.taken.append({"record": number, "state": "repeated"})
            continue
        delivery.records.append(record)
        delivery.taken.append({"record": number, "id": record.key, "state": "published"})
    delivery.said = checks.said
    return delivery


def _rows(body: bytes, known: Collection[str]) -> Iterator[Row | DataError]:
    body = body.removeprefix(BOM_UTF8)
    try:
        whole = json_document(body)
    except (ValueError, RecursionError):
        yield from _lines(body)
        return
    if isinstance(whole, dict):
        try:
            inner = below(whole, known)
        except DataError as error:
            yield error
            return
        whole = whole if inner is None else whole[inner]
    for row in whole if isinstance(whole, list) else [whole]:
        yield row if isinstance(row, dict) else DataError(f"expected a JSON object, found {kind_of(row)}")


def _lines(body: bytes) -> Iterator[Row | DataError]:
    for line in body.splitlines():
        if not line.strip():
            continue
        try:
            yield json_object(line.decode())
        except UnicodeDecodeError as error:
            yield DataError(f"byte {error.start + 1} is not valid UTF-8; send UTF-8")
