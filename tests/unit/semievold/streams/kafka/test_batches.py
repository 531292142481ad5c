import tracemalloc
from typing import Any

import pytest

pytest.importorskip("kafka")

from kafka.codec import has_lz4, has_snappy, has_zstd
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from semievol.config.method import TaskConfig
from semievol.tasks.task import Task
from semievold.errors import PoisonRecord, Reason
from semievold.intake.messages import RecordParser
from semievold.streams.kafka.client import batches
from semievold.streams.kafka.client.batches import bound_batches
from semievold.streams.kafka.client.member import _record

CODECS = {"none": 0, "gzip": 1}
CODECS |= {"snappy": 2} if has_snappy() else {}
CODECS |= {"lz4": 3} if has_lz4() else {}
CODECS |= {"zstd": 4} if has_zstd() else {}


class Named(str):
    """The name of a header as a producer that is not written in Java may send it."""

    def encode(self, *_: object) -> bytes:
        return b"\xff" + str.encode(self)


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_records, "DefaultRecordBatch", memory_records.DefaultRecordBatch)
    bound_batches()


def built(codec: int, *values: bytes, headers: Any = ()) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 30)
    for offset, value in enumerate(values):
        builder.append(offset, 1_700_000_000_000, b"k", value, list(headers))
    return bytes(builder.build())


def read(raw: bytes) -> list[Any]:
    return [record for batch in MemoryRecords(raw) for record in batch]


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_is_read_as_it_was_written(codec: str) -> None:
    values = [b"", b"x" * 100_000, b"\0\xff"]
    found = read(built(CODECS[codec], *values, headers=[("h", b"1"), ("h", None)]))
    assert [(record.offset, record.value) for record in found] == list(enumerate(values))
    assert found[0].headers == [("h", b"1"), ("h", None)]


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_whose_name_is_no_utf8_stops_no_partition(codec: str) -> None:
    raw = built(CODECS[codec], b"a", b"b", headers=[("plain", b"1"), (Named("odd"), b"2")])
    assert [(each.value, each.headers) for each in read(raw + built(0, b"c"))] == [
        (b"a", [("plain", b"1"), ("\\xffodd", b"2")]),
        (b"b", [("plain", b"1"), ("\\xffodd", b"2")]),
        (b"c", []),
    ]


@pytest.mark.parametrize("codec", [name for name in CODECS if name not in ("none", "snappy")])
def test_a_batch_that_unpacks_to_200_mb_is_one_dead_letter_and_takes_no_such_memory(codec: str) -> None:
    raw = built(CODECS[codec], b"a", b"x" * 200_000_000, b"b") + built(0, b"c")
    assert len(raw) < 1_000_000
    tracemalloc.start()
    found = read(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * batches.MAX_UNPACKED_BYTES
    assert [record.offset for record in found] == [2, 0]
    odd = _record(type("Polled", (), {"topic": "t", "partition": 0, **_fields(found[0])}))
    with pytest.raises(PoisonRecord, match="offsets 0 to 2 unpacks to more than") as poison:
        RecordParser(Task(TaskConfig(labels=("a", "b"))), 1000).query(odd)
    assert poison.value.reason is Reason.TOO_LARGE


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("offset", "key", "value", "headers", "timestamp")}
