"""What every stream promises (semievold.streams.protocol), asked of the embedded one and of a real Kafka broker."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from semievold.config.streams import StreamSettings
from semievold.errors import StateConflict
from semievold.store.database import Database
from semievold.streams.opening import open_stream
from semievold.streams.protocol import OutgoingRecord, ResetTarget, Stream, StreamConsumer, StreamRecord
from tests.servers.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(300)  # the first test on the broker waits for its start

WAIT_S = 20.0
_numbers = itertools.count()

Open = Callable[..., Stream]


@pytest.fixture(params=["local", "kafka"])
def open_(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the stream again and again, each time as another process would."""
    if request.param == "local":
        database = Database(f"sqlite:///{tmp_path / 'state.db'}")
        database.migrate()

        def local(partitions: int = 1) -> Stream:
            settings = StreamSettings(poll_interval_s=0.02, lock_retry_s=0.02, partitions=partitions)
            return open_stream(settings, database)

        return local
    broker: KafkaBroker = request.getfixturevalue("kafka")

    def kafka(partitions: int = 1) -> Stream:
        return open_stream(
            StreamSettings(
                kind="kafka",
                kafka={"bootstrap_servers": broker.bootstrap, "partitions": partitions, "session_timeout_s": 6},
            ),
            Database(f"sqlite:///{tmp_path / 'unused.db'}"),
        )

    return kafka


@pytest.fixture
def topic() -> str:
    return f"contract-{next(_numbers)}"


def out(*values: str, key: str | None = None) -> list[OutgoingRecord]:
    return [OutgoingRecord(key, value.encode()) for value in values]


def values(records: list[StreamRecord]) -> list[str]:
    return [(record.value or b"").decode() for record in records]


async def publish(stream: Stream, topic: str, records: list[OutgoingRecord]) -> None:
    producer = stream.producer()
    await producer.publish(topic, records)
    await producer.close()


async def read(consumer: StreamConsumer, count: int, at_once: int = 100) -> list[StreamRecord]:
    """Exactly so many records, within a bounded time."""
    records: list[StreamRecord] = []
    async with asyncio.timeout(WAIT_S):
        while len(records) < count:
            records += await consumer.poll(min(at_once, count - len(records)), 0.5)
            consumer.revoked()
    return records


def commit_of(records: list[StreamRecord]) -> dict[int, int]:
    return {record.partition: record.offset + 1 for record in records}


async def test_a_record_arrives_as_it_was_sent(open_: Open, topic: str) -> None:
    stream = open_()
    sent = [OutgoingRecord("ключ", b"\xff\x00", {"h": "ä"}), OutgoingRecord("k", None), OutgoingRecord(None, b"")]
    before = time.time()
    await publish(stream, topic, sent)
    consumer = stream.consumer(topic, "g")
    records = await read(consumer, 3)
    assert [(r.topic, r.partition, r.offset, r.key, r.value, r.headers) for r in records] == [
        (topic, 0, 0, "ключ", b"\xff\x00", {"h": "ä"}),
        (topic, 0, 1, "k", None, {}),
        (topic, 0, 2, None, b"", {}),
    ]
    assert before - 0.002 <= records[0].timestamp <= time.time()  # brokers count milliseconds
    await consumer.close()


async def test_a_group_goes_on_from_its_commit_and_groups_do_not_disturb_each_other(open_: Open, topic: str) -> None:
    stream = open_()
    await publish(stream, topic, out("a", "b", "c"))
    first = stream.consumer(topic, "g")
    assert values(await read(first, 2)) == ["a", "b"]
    assert await first.lag() == 3
    await first.commit({0: 1})
    assert await first.lag() == 2
    await first.close()
    again, other = stream.consumer(topic, "g"), stream.consumer(topic, "other")
    assert values(await read(again, 2)) == ["b", "c"]
    assert values(await read(other, 3)) == ["a", "b", "c"]
    await again.close()
    await other.close()


async def test_without_a_commit_everything_is_delivered_again(open_: Open, topic: str) -> None:
    stream = open_()
    await publish(stream, topic, out("a", "b"))
    for _ in range(2):
        consumer = stream.consumer(topic, "g")
        assert values(await read(consumer, 2)) == ["a", "b"]
        await consumer.close()


async def test_a_partition_has_one_owner_and_a_standby_takes_over(open_: Open, topic: str) -> None:
    await publish(open_(), topic, out("a", "b"))
    owner, standby = open_().consumer(topic, "g"), open_().consumer(topic, "g")
    assert values(await read(owner, 1)) == ["a"]
    assert await standby.poll(1, 0.5) == []
    assert (owner.assigned, standby.assigned) == ({0}, frozenset())
    await standby.commit({0: 2})  # not the owner: left out
    await owner.commit({0: 1})
    await owner.close()
    assert values(await read(standby, 1)) == ["b"]
    await standby.close()


async def test_polling_for_nothing_fetches_nothing_and_waits_for_nothing(open_: Open, topic: str) -> None:
    stream = open_()
    await publish(stream, topic, out("a"))
    consumer = stream.consumer(topic, "g")
    started = time.monotonic()
    assert await consumer.poll(0, 10.0) == []
    assert time.monotonic() - started < 1.0
    assert values(await read(consumer, 1)) == ["a"]
    await consumer.close()


async def test_a_reader_that_waits_is_woken_by_a_record(open_: Open, topic: str) -> None:
    stream = open_()
    consumer, producer = stream.consumer(topic, "g"), stream.producer()
    waiting = asyncio.create_task(read(consumer, 1))
    await producer.publish(topic, out("a"))
    assert values(await waiting) == ["a"]
    await producer.close()
    await consumer.close()


async def test_a_reader_that_is_cancelled_loses_nothing(open_: Open, topic: str) -> None:
    stream = open_()
    consumer = stream.consumer(topic, "g")
    waiting = asyncio.create_task(consumer.poll(10, 60.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await publish(stream, topic, out("a", "b"))
    assert values(await read(consumer, 2)) == ["a", "b"]
    await consumer.close()


async def test_one_key_stays_in_one_partition_and_in_order(open_: Open, topic: str) -> None:
    stream = open_(partitions=4)
    producer = stream.producer()
    for number in range(10):
        await producer.publish(topic, out(str(number), key="k"))
    consumer = stream.consumer(topic, "g")
    records = await read(consumer, 10)
    assert len({record.partition for record in records}) == 1
    assert values(records) == [str(n) for n in range(10)]
    await producer.close()
    await consumer.close()


async def test_a_busy_partition_does_not_starve_the_others(open_: Open, topic: str) -> None:
    stream = open_(partitions=2)
    await publish(stream, topic, [OutgoingRecord(f"k{n}", b"v") for n in range(200)])
    consumer = stream.consumer(topic, "g")
    assert {record.partition for record in await read(consumer, 200, at_once=5)} == {0, 1}
    await consumer.close()


async def test_offsets_are_shown_and_reset_while_nobody_reads(open_: Open, topic: str) -> None:
    stream = open_()
    await publish(stream, topic, out("a", "b", "c"))
    consumer = stream.consumer(topic, "g")
    records = await read(consumer, 3)
    await consumer.commit(commit_of(records))
    assert [tuple(each) for each in await asyncio.to_thread(stream.offsets, topic, "g")] == [(0, 3, 3)]
    with pytest.raises(StateConflict, match="active member"):
        await asyncio.to_thread(stream.reset, topic, "g", ResetTarget("earliest"))
    await consumer.close()
    for target, expected in (
        (ResetTarget("earliest"), 0),
        (ResetTarget("latest"), 3),
        (ResetTarget("offset", 1), 1),
        (ResetTarget("offset", 99), 3),
        (ResetTarget("timestamp", records[0].timestamp - 60), 0),
        (ResetTarget("timestamp", time.time() + 60), 3),
    ):
        await asyncio.to_thread(stream.reset, topic, "g", target)
        assert [each.committed for each in stream.offsets(topic, "g")] == [expected]
    await asyncio.to_thread(stream.reset, topic, "g", ResetTarget("offset", 1))
    again = stream.consumer(topic, "g")
    assert values(await read(again, 2)) == ["b", "c"]
    await again.close()


async def test_a_group_that_never_committed_stands_where_it_would_begin(open_: Open, topic: str) -> None:
    stream = open_()
    await publish(stream, topic, out("a", "b"))
    assert [tuple(each) for each in await asyncio.to_thread(stream.offsets, topic, "new")] == [(0, 0, 2)]
