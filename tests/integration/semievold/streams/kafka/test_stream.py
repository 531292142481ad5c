"""What only Kafka has: rebalances, pauses, security, topics, size limits. The common contract: test_stream_contract."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from semievol.errors import ConfigError
from semievold.config.streams import StreamSettings
from semievold.errors import RecordRefused, TransientStreamError
from semievold.streams.kafka.producer import CUT_HEADER
from semievold.streams.kafka.reader import CATCH_UP_S
from semievold.streams.kafka.stream import KafkaStream
from semievold.streams.protocol import OutgoingRecord, ResetTarget, StreamConsumer, StreamRecord
from tests.servers import free_port
from tests.servers.kafka import ADMIN, LIMITED, PASSWORD, KafkaBroker
from tests.stream_world import RuleLabeller, World, run_until

WAIT_S = 30.0


@pytest.fixture
def names() -> dict[str, str]:
    """Topics that no other test uses."""
    mine = uuid.uuid4().hex[:8]
    return {name: f"{name}-{mine}" for name in ("queries", "labels", "predictions", "review", "dead_letter")}


Settings = Callable[..., StreamSettings]


@pytest.fixture
def settings(kafka: KafkaBroker, names: dict[str, str]) -> Settings:
    def with_(**options: Any) -> StreamSettings:
        reached = {"bootstrap_servers": [kafka.bootstrap], "session_timeout_s": 6, "partitions": 2, **options}
        return StreamSettings(kind="kafka", kafka=reached, max_record_bytes=100_000, **names)

    return with_


async def publish(stream: KafkaStream, topic: str, records: list[OutgoingRecord]) -> None:
    producer = stream.producer()
    try:
        await producer.publish(topic, records)
    finally:
        await producer.close()


async def read(consumer: StreamConsumer, count: int) -> list[StreamRecord]:
    records: list[StreamRecord] = []
    async with asyncio.timeout(WAIT_S):
        while len(records) < count:
            records += await consumer.poll(count - len(records), 0.5)
            consumer.revoked()
    return records


def keyed(count: int) -> list[OutgoingRecord]:
    return [OutgoingRecord(f"k{n}", f"{n}".encode()) for n in range(count)]


async def owns(consumer: StreamConsumer, partitions: int) -> None:
    """Poll for nothing until the consumer owns so many."""
    async with asyncio.timeout(WAIT_S):
        while len(consumer.assigned) != partitions:
            await consumer.poll(0, 0.0)
            await asyncio.sleep(0.02)


# --- groups ---------------------------------------------------------------------------------------------------------


async def test_a_revoked_partition_is_told_once_and_no_longer_committed(settings: Settings) -> None:
    stream = KafkaStream(settings())
    topic = settings().queries
    await publish(stream, topic, keyed(20))
    first, second = stream.consumer(topic, "g"), stream.consumer(topic, "g")
    records = await read(first, 20)
    assert first.assigned == {0, 1}
    await second.poll(0, 0.0)  # joins
    await owns(first, 1)
    await owns(second, 1)
    await first.commit({record.partition: record.offset + 1 for record in records})
    await first.poll(0, 0.0)
    assert first.revoked() == second.assigned
    assert first.revoked() == frozenset()
    [kept], [moved] = first.assigned, second.assigned
    committed = {each.partition: each.committed for each in await asyncio.to_thread(stream.offsets, topic, "g")}
    of_moved = sum(record.partition == moved for record in records)
    assert committed == {kept: 20 - of_moved, moved: 0}
    assert len(await read(second, of_moved)) == of_moved  # delivered again to their new owner
    assert await first.poll(100, 0.2) == []  # the cooperative assignor took nothing else away
    await first.close()
    await second.close()


async def test_a_commit_waits_until_the_group_is_shared_out(settings: Settings) -> None:
    """The group takes none while its members come and go, as in every rolling update of intakes."""
    stream = KafkaStream(settings())
    topic = settings().queries
    await publish(stream, topic, keyed(20))
    first = stream.consumer(topic, "g")
    records = await read(first, 20)
    ends = {record.partition: record.offset + 1 for record in records}
    for _ in range(3):
        second = stream.consumer(topic, "g")
        await second.poll(0, 0.0)  # joins
        async with asyncio.timeout(WAIT_S):
            while len(second.assigned) != 1:
                await first.commit(ends)  # at every moment of it; what is not owned any more is left out
                await first.poll(0, 0.0)
                await second.poll(0, 0.0)
        await second.close()
        async with asyncio.timeout(WAIT_S):
            while len(first.assigned) != 2:
                await first.commit(ends)
                await first.poll(0, 0.0)
    await first.close()


async def test_long_work_does_not_lose_the_group(settings: Settings) -> None:
    topics = settings(max_poll_interval_s=2)
    stream = KafkaStream(topics)
    await publish(stream, topics.queries, keyed(1500))  # more than the buffer holds: reading pauses
    consumer = stream.consumer(topics.queries, "g")
    records = await read(consumer, 1)
    await asyncio.sleep(5.0)  # longer than the group waits for a silent member
    assert consumer.assigned == {0, 1}
    records += await read(consumer, 1499)
    assert len({record.key for record in records}) == 1500
    assert consumer.revoked() == frozenset()
    await consumer.commit({0: 1})
    await consumer.close()


async def test_records_of_a_transaction_are_read_and_its_marker_is_no_lag(
    settings: Settings, kafka: KafkaBroker
) -> None:
    """The end of a transaction takes an offset: who waits until all labels are read must not wait for it for ever."""
    topics = settings(partitions=1)
    stream = KafkaStream(topics)
    await publish(stream, topics.labels, keyed(1))
    producer = KafkaProducer(bootstrap_servers=[kafka.bootstrap], transactional_id=uuid.uuid4().hex)
    try:
        await asyncio.to_thread(producer.init_transactions)
        for number, ends in enumerate((producer.commit_transaction, producer.abort_transaction)):
            producer.begin_transaction()
            producer.send(topics.labels, key=b"t", value=f"{number}".encode())
            await asyncio.to_thread(ends)
    finally:
        await asyncio.to_thread(producer.close)
    consumer = stream.consumer(topics.labels, "g")
    records = await read(consumer, 2)
    assert [record.value for record in records] == [b"0", b"0"]  # and not what was taken back
    await consumer.commit({0: records[0].offset + 1})
    assert await consumer.lag() > 0  # the second record is not finished: nothing is passed over
    await asyncio.sleep(2 * CATCH_UP_S)
    assert await consumer.lag() > 0
    await consumer.commit({0: records[-1].offset + 1})
    async with asyncio.timeout(WAIT_S):
        while await consumer.lag() > 0:
            await consumer.poll(10, 0.1)
    assert sum(each.lag for each in await asyncio.to_thread(stream.offsets, topics.labels, "g")) == 0
    await publish(stream, topics.labels, keyed(1))
    assert [record.value for record in await read(consumer, 1)] == [b"0"]
    await consumer.close()


async def test_a_static_member_keeps_its_partitions_over_a_restart(settings: Settings) -> None:
    topics = settings(group_instance_id="pod-0")
    stream = KafkaStream(topics)
    await publish(stream, topics.queries, keyed(10))
    consumer = stream.consumer(topics.queries, "g")
    await read(consumer, 10)
    await consumer.close()
    again = KafkaStream(topics).consumer(topics.queries, "g")
    assert len(await read(again, 10)) == 10
    await again.close()


async def test_with_latest_the_place_of_the_first_start_is_remembered(settings: Settings) -> None:
    topics = settings(auto_offset_reset="latest", partitions=1)
    stream = KafkaStream(topics)
    await publish(stream, topics.queries, [OutgoingRecord("k", b"before")])
    consumer = stream.consumer(topics.queries, "g")
    await owns(consumer, 1)
    async with asyncio.timeout(WAIT_S):
        while await consumer.lag() != 0:  # until the start is committed
            await consumer.poll(0, 0.0)
    await publish(stream, topics.queries, [OutgoingRecord("k", b"during")])
    await consumer.close()  # dies before its first commit
    again = stream.consumer(topics.queries, "g")
    assert [record.value for record in await read(again, 1)] == [b"during"]
    await again.close()


async def test_the_lag_of_a_group_is_known_without_joining_it(settings: Settings) -> None:
    stream = KafkaStream(settings())
    await publish(stream, settings().queries, keyed(7))
    observer = stream.consumer(settings().queries, "g")
    assert await observer.lag() == 7
    assert observer.assigned == frozenset()
    await observer.close()


# --- records --------------------------------------------------------------------------------------------------------


async def test_keys_and_headers_that_are_not_utf8_do_not_stop_the_partition(
    settings: Settings, kafka: KafkaBroker
) -> None:
    topics = settings(partitions=1)
    stream = KafkaStream(topics)
    await asyncio.to_thread(stream.topics.ensure, topics.queries)
    foreign = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    foreign.send(topics.queries, key=b"\xff", value=b"v", headers=[("h", b"\xfe")]).get(10)
    foreign.close()
    consumer = stream.consumer(topics.queries, "g")
    [record] = await read(consumer, 1)
    assert (record.key, record.headers) == ("\\xff", {"h": "\\xfe"})
    await consumer.close()


async def test_a_dead_letter_keeps_its_bytes_or_says_that_it_was_cut(settings: Settings) -> None:
    topics = settings(partitions=1)
    stream = KafkaStream(topics)
    fits, large = b"x" * topics.max_record_bytes, b"y" * (4 * topics.max_record_bytes)
    letters = [OutgoingRecord("a", fits, {"reason": "r"}), OutgoingRecord("b", large, {"reason": "r"})]
    await publish(stream, topics.dead_letter, letters)
    consumer = stream.consumer(topics.dead_letter, "g")
    records = {record.key: record for record in await read(consumer, 2)}
    assert (records["a"].value, records["a"].headers) == (fits, {"reason": "r"})
    assert large.startswith(records["b"].value or b"?")
    assert records["b"].headers == {"reason": "r", CUT_HEADER: str(len(large))}
    await consumer.close()


async def test_a_record_that_its_topic_never_takes_is_named_and_not_tried_for_ever(settings: Settings) -> None:
    topics = settings()
    stream = KafkaStream(topics)
    with pytest.raises(RecordRefused, match=r"'big'.*max\.message\.bytes"):
        await publish(stream, topics.predictions, [OutgoingRecord("big", b"x" * (2 * topics.max_record_bytes))])
    with pytest.raises(RecordRefused, match="key"):
        await publish(stream, topics.labels, [OutgoingRecord(None, b"{}")])  # compacted


# --- topics ---------------------------------------------------------------------------------------------------------


async def test_topics_are_created_as_the_design_says_and_existing_ones_are_left_alone(
    settings: Settings, kafka: KafkaBroker
) -> None:
    topics = settings(retention_s=3600, partitions=3)
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.create_topics({topics.queries: {"num_partitions": 1}})
    stream = KafkaStream(topics)
    assert set(stream.topics.missing()) == {topics.labels, topics.predictions, topics.review, topics.dead_letter}
    for topic in (topics.queries, topics.labels, topics.predictions):
        await asyncio.to_thread(stream.topics.ensure, topic)
    described = {each["name"]: len(each["partitions"]) for each in admin.describe_topics(list(stream_topics(topics)))}
    assert described == {topics.queries: 1, topics.labels: 3, topics.predictions: 3}
    configs = {topic: config(admin, topic) for topic in stream_topics(topics)}
    assert configs[topics.labels]["cleanup.policy"] == "compact"
    assert configs[topics.predictions]["retention.ms"] == "3600000"
    assert "retention.ms" not in configs[topics.queries]
    admin.close()


def stream_topics(topics: StreamSettings) -> tuple[str, ...]:
    return topics.queries, topics.labels, topics.predictions


def config(admin: KafkaAdminClient, topic: str) -> dict[str, str]:
    """What was set on the topic."""
    described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])["topic"][topic]
    return {name: item["value"] for name, item in described.items()}


# --- security and reachability --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_records_pass_with_a_password(settings: Settings, kafka: KafkaBroker, mechanism: str) -> None:
    topics = settings(**sasl(kafka, ADMIN, PASSWORD, mechanism))
    stream = KafkaStream(topics)
    await publish(stream, topics.queries, keyed(3))
    consumer = stream.consumer(topics.queries, "g")
    assert len(await read(consumer, 3)) == 3
    await consumer.close()


async def insistently(attempt: Callable[[], Awaitable[object]]) -> None:
    """A busy client may see that the broker hung up before it has read why: it tries again."""
    for _ in range(5):
        with suppress(TransientStreamError):
            await attempt()


async def test_a_wrong_password_is_a_configuration_error_that_does_not_show_it(
    settings: Settings, kafka: KafkaBroker
) -> None:
    topics = settings(**sasl(kafka, ADMIN, "not-the-password", "SCRAM-SHA-512"))
    with pytest.raises(ConfigError, match="sasl_username") as refused:
        await insistently(lambda: publish(KafkaStream(topics), topics.queries, keyed(1)))
    assert "not-the-password" not in str(refused.value)
    consumer = KafkaStream(topics).consumer(topics.queries, "g")
    with pytest.raises(ConfigError, match="sasl_username"):
        await insistently(lambda: read(consumer, 1))
    await consumer.close()


async def test_a_missing_permission_is_a_clear_error(settings: Settings, kafka: KafkaBroker) -> None:
    topics = settings(**sasl(kafka, LIMITED, PASSWORD, "PLAIN"))
    with pytest.raises(ConfigError, match=rf"permission.*{topics.queries}"):
        await publish(KafkaStream(topics), topics.queries, keyed(1))


async def test_records_pass_over_tls_and_a_foreign_certificate_is_refused(
    settings: Settings, kafka: KafkaBroker
) -> None:
    tls = {"bootstrap_servers": [kafka.address("SSL")], "security_protocol": "SSL"}
    topics = settings(**tls, tls_ca=kafka.certificate)
    stream = KafkaStream(topics)
    with pytest.raises(ConfigError, match="tls_ca"):
        await publish(KafkaStream(settings(**tls)), topics.queries, keyed(1))
    with pytest.raises(ConfigError, match="tls_ca: cannot be used"):
        await publish(KafkaStream(settings(**tls, tls_ca=Path("nowhere.pem"))), topics.queries, keyed(1))
    await publish(stream, topics.queries, keyed(3))
    consumer = stream.consumer(topics.queries, "g")
    assert len(await read(consumer, 3)) == 3
    await consumer.close()


async def test_a_broker_that_is_away_is_a_matter_of_time(settings: Settings) -> None:
    topics = settings(bootstrap_servers=[f"127.0.0.1:{free_port()}"])
    stream = KafkaStream(topics)
    consumer = stream.consumer(topics.queries, "g")
    for attempt in (lambda: publish(stream, topics.queries, keyed(1)), lambda: read(consumer, 1), consumer.lag):
        with pytest.raises(TransientStreamError, match="ECONNREFUSED"):
            await attempt()
    started = time.monotonic()
    await consumer.close()
    assert time.monotonic() - started < 15.0


# --- the intake -----------------------------------------------------------------------------------------------------


async def test_redelivered_queries_are_recognised_after_a_reset(
    settings: Settings, tmp_path: Path, names: dict[str, str]
) -> None:
    world = World(tmp_path, kind="kafka", kafka=settings().kafka, **names)
    await world.ask(*map(str, range(20)))
    first = world.intake(RuleLabeller())
    await run_until(first, lambda: first.counters.received == 20 and first.counters.in_flight == 0)
    await asyncio.to_thread(world.stream.reset, world.topics.queries, "intake", ResetTarget("earliest"))
    labeller = RuleLabeller()
    again = world.intake(labeller)
    await run_until(again, lambda: again.counters.received == 20 and again.counters.in_flight == 0)
    assert labeller.calls == []
    assert again.counters.duplicates == 20
    assert len(await world.predictions()) == 20
    await world.close()


def sasl(broker: KafkaBroker, user: str, password: str, mechanism: str) -> dict[str, Any]:
    return {
        "bootstrap_servers": [broker.address("SASL_PLAINTEXT")],
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_username": user,
        "sasl_password": password,
    }
