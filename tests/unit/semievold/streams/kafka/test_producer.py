"""A dead letter that its topic does not take as it came: what is cut, in which order, and what stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from semievold.config.streams import StreamSettings
from semievold.errors import PoisonRecord, Reason, RecordRefused
from semievold.intake.messages import dead_letter
from semievold.streams.protocol import DEAD_LETTER_HEADERS, OutgoingRecord, StreamRecord

pytest.importorskip("kafka")
from semievold.streams.kafka.producer import CUT_HEADER, DROPPED_HEADER, KafkaStreamProducer

LIMIT = 1000
Publish = Callable[[OutgoingRecord], OutgoingRecord]


class AnyTopic:
    def ensure(self, topic: str) -> None:
        pass


def size(record: OutgoingRecord) -> int:
    headers = sum(len(name) + len(text) for name, text in record.headers.items())
    return len(record.key or "") + len(record.value or b"") + headers


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Publishes to a dead-letter topic that takes LIMIT bytes; what arrived."""

    def publish(letter: OutgoingRecord) -> OutgoingRecord:
        arrived: list[OutgoingRecord] = []

        def send(_topic: str, records: Sequence[OutgoingRecord]) -> list[OutgoingRecord]:
            arrived.extend(record for record in records if size(record) <= LIMIT)
            return [record for record in records if size(record) > LIMIT]

        settings = StreamSettings()
        producer = KafkaStreamProducer(settings, AnyTopic())  # type: ignore[arg-type]
        monkeypatch.setattr(producer, "_send", send)
        producer._publish(settings.dead_letter, [letter])
        [record] = arrived
        return record

    return publish


def letter(value: bytes | None, headers: dict[str, str], key: str = "k") -> OutgoingRecord:
    record = StreamRecord("queries", 3, 7, key, value, headers, 0.0)
    return dead_letter(record, PoisonRecord(Reason.MALFORMED_JSON, "not JSON"), "w")


def test_a_value_is_halved_until_it_fits_and_the_headers_stay(publish: Publish) -> None:
    arrived = publish(letter(b"x" * 5000, {"trace": "t"}))
    assert arrived.value == b"x" * 625
    assert arrived.headers.keys() == {"trace", CUT_HEADER, *DEAD_LETTER_HEADERS}
    assert arrived.headers[CUT_HEADER] == "5000"


@pytest.mark.parametrize("value", [b"x" * 500, None])
def test_headers_that_fill_the_limit_alone_are_dropped_and_ours_stay(publish: Publish, value: bytes | None) -> None:
    arrived = publish(letter(value, {"trace": "t" * 5000, "other": "o"}))
    assert arrived.key == "k"
    assert arrived.headers.keys() - {CUT_HEADER} == {DROPPED_HEADER, *DEAD_LETTER_HEADERS}
    assert (arrived.headers["source_partition"], arrived.headers["source_offset"]) == ("3", "7")
    assert arrived.headers[DROPPED_HEADER] == "2"
    assert arrived.headers.get(CUT_HEADER) == (None if value is None else "500")


def test_a_letter_of_which_nothing_can_be_cut_is_refused(publish: Publish) -> None:
    with pytest.raises(RecordRefused, match=r"max\.message\.bytes"):
        publish(letter(None, {"trace": "t"}, key="k" * 5000))
