"""The spans of the query records that are worked on, from their delivery to their end.

Owns what is said of a record in its trace. Invariant: without tracing, and for records that are not traced, nothing is
made and nothing kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence

from semievol.types import PseudoLabel
from semievold.errors import PoisonRecord
from semievold.streams.protocol import StreamRecord
from semievold.tracing import PARENT, STATE, Span, Tracing


class RecordSpans:
    """Of one intake; `tracing` None: there are none."""

    def __init__(self, tracing: Tracing | None) -> None:
        self._tracing = tracing
        self._open: dict[int, Span] = {}  # by the id() of the record

    def begin(self, records: Sequence[StreamRecord]) -> None:
        """These are worked on from now on."""
        if self._tracing is None:
            return
        now = time.time()
        for record in records:
            if (chosen := self._tracing.chosen(record.headers)) is None:
                continue
            span = self._tracing.begin_chosen(
                chosen,
                f"{record.topic} process",
                "consumer",
                messaging__destination__name=record.topic,
                messaging__destination__partition__id=str(record.partition),
                messaging__message__id=record.key,
                semievol__offset=record.offset,
                semievol__waited_s=max(0.0, now - record.timestamp),
            )
            if span is not None:
                self._open[id(record)] = span

    def end(self, records: Iterable[StreamRecord], failed: str | None = None) -> None:
        """These are done with; `failed`: why they are not."""
        if not self._open:
            return
        for record in records:
            span = self._open.pop(id(record), None)
            if span is not None:
                if failed is not None:
                    span.fail(failed)
                span.end()

    def headers(self, record: StreamRecord) -> Mapping[str, str]:
        """Of what the record causes: those of its span, where it has one, in place of its own."""
        span = self._open.get(id(record)) if self._open else None
        if span is None:
            return record.headers
        others = {name: value for name, value in record.headers.items() if name.lower() not in (PARENT, STATE)}
        return others | span.headers()

    def labelled(self, answered: Iterable[tuple[StreamRecord, PseudoLabel]]) -> None:
        """These have a label."""
        for record, label in answered if self._open else ():
            if (span := self._open.get(id(record))) is not None:
                span.tell(
                    semievol__outcome="labelled" if label.answer is not None else "labelled: no answer that parses",
                    semievol__adapter=label.adapter or "base",
                    semievol__entropy=label.entropy if math.isfinite(label.entropy) else None,
                    semievol__agreement=label.agreement,
                )

    def redelivered(self, records: Iterable[StreamRecord]) -> None:
        """These had one before."""
        for record in records if self._open else ():
            if (span := self._open.get(id(record))) is not None:
                span.tell(semievol__outcome="redelivered")

    def refused(self, refused: Iterable[tuple[StreamRecord, PoisonRecord]]) -> None:
        """These will get none."""
        for record, poison in refused if self._open else ():
            if (span := self._open.get(id(record))) is not None:
                span.tell(semievol__outcome=f"dead letter: {poison.reason.value}")
                span.fail(poison.detail)
