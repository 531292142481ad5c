"""Records that people bring in bulk, in whatever form they hold them, as checked records of the stream.

Owns what files, pipes and the admin API share: a row is brought into our own form (semievol.examples.forms), checked as
the intake will check it, and keyed by its id. No I/O. Invariant: of several records with one id the first is taken; the
same again is passed over, and another one is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from semievol.errors import DataError
from semievol.examples.forms import Recogniser
from semievol.examples.records import Row, checked_values
from semievol.tasks.task import Task
from semievold.config.daemon import DaemonConfig
from semievold.errors import PoisonRecord
from semievold.intake.messages import RecordParser
from semievold.streams.protocol import OutgoingRecord, StreamRecord

What = Literal["queries", "labels"]


class BulkRecords:
    """The checks of one delivery.

    Args:
        config: what columns mean, and the limits.
        what: which topic the records are for.
        once: look for ids that come again; off where a delivery may never end.
    """

    def __init__(self, config: DaemonConfig, what: What, *, once: bool = True) -> None:
        self.topic = config.stream.queries if what == "queries" else config.stream.labels
        parser = RecordParser(Task(config.task), config.stream.max_record_bytes)
        self._parse = parser.query if what == "queries" else parser.label
        self._recogniser = Recogniser(config.data, "query" if what == "queries" else "example", config.task.instruction)
        self._once = once
        self._seen: dict[str, tuple[str, bytes]] = {}
        self.repeated = 0
        """Records that said the same as an earlier one, and were passed over."""

    @property
    def said(self) -> str | None:
        """What form was recognised; None: our own."""
        return self._recogniser.said

    def row(self, row: Row, place: str) -> OutgoingRecord | None:
        """A row in any form as a record of the stream; None where it repeats an earlier one.

        Raises:
            DataError: what is wrong, naming the field.
        """
        return self.record(self._recogniser.record(row), place)

    def record(self, record: Mapping[str, Any], place: str) -> OutgoingRecord | None:
        """As `row`, of one that is in our own form already."""
        value = json.dumps(checked_values(record), ensure_ascii=False).encode()
        try:
            parsed = self._parse(StreamRecord(self.topic, 0, 0, None, value, {}, 0.0))
        except PoisonRecord as poison:
            raise DataError(poison.detail) from poison
        if self._once and not self._is_new(parsed.id, value, place):
            return None
        return OutgoingRecord(parsed.id, value)

    def _is_new(self, identity: str, value: bytes, place: str) -> bool:
        content = hashlib.blake2b(value, digest_size=16).digest()
        before = self._seen.setdefault(identity, (place, content))
        if before[0] == place:
            return True
        if before[1] != content:
            asked = "asks the same and says otherwise" if self._recogniser.ids_by_content else "has it, too"
            raise DataError(f"field 'id': {identity!r} is used twice: {before[0]} {asked}; keep one of them")
        self.repeated += 1
        return False
