"""Predictions and offsets in one transaction: who may commit, what does not fit, and what the broker refuses."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from semievol.errors import ConfigError
from semievold.errors import TransientStreamError
from semievold.streams.kafka.consumer import KafkaStreamConsumer
from semievold.streams.kafka.transactions import KafkaTransactions
from semievold.streams.protocol import Caused, Due, OutgoingRecord
from tests.kafka_records import committed_records
from tests.servers.kafka import KafkaBroker
from tests.stream_world import RuleLabeller, World, run_until, until

WAIT_S = 60.0


def open_world(directory: Path, broker: KafkaBroker, **options: object) -> World:
    mine = uuid.uuid4().hex[:8]
    names = {name: f"{name}-{mine}" for name in ("queries", "labels", "predictions", "review", "dead_letter")}
    reached = {"bootstrap_servers": broker.bootstrap, "session_timeout_s": 6, "partitions": 2, "exactly_once": True}
    return World(directory, kind="kafka", kafka={**reached, **options}, max_record_bytes=100_000, **names)


def due(topic: str, key: str, offset: int, value: bytes = b"v") -> Due:
    return Due(offset + 1, [Caused(offset, topic, OutgoingRecord(key, value))])


async def owning(world: World, count: int, *others: KafkaStreamConsumer) -> KafkaStreamConsumer:
    """A member of the group when it has so many partitions; the others poll meanwhile."""
    consumer = world.stream.consumer(world.topics.queries, "intake")
    assert isinstance(consumer, KafkaStreamConsumer)
    async with asyncio.timeout(WAIT_S):
        while len(consumer.assigned) != count:
            for each in (consumer, *others):
                await each.poll(0, 0.0)
            await asyncio.sleep(0.02)
    for each in (consumer, *others):
        each.revoked()
    return consumer


async def committed(
    transactions: KafkaTransactions, due: Mapping[int, Due], *members: KafkaStreamConsumer
) -> Mapping[int, int]:
    """As intakes do: asked again while the group is being shared out anew, which its members take part in."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return await transactions.commit(due)
        except TransientStreamError:
            if time.monotonic() > deadline:
                raise
            for each in members:
                await each.poll(0, 0.0)
                each.revoked()


async def test_who_missed_a_rebalance_publishes_nothing_and_who_is_asked_again_publishes_once(
    tmp_path: Path, kafka: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = open_world(tmp_path, kafka)
    predictions = world.topics.predictions
    first = await owning(world, 2)
    transactions = world.stream.transactions(first)
    assert isinstance(transactions, KafkaTransactions)
    assert await transactions.commit({0: due(predictions, "a", 0), 1: due(predictions, "b", 0)}) == {0: 1, 1: 1}
    stale = first.identity
    second = await owning(world, 1, first)
    await until(lambda: len(first.assigned) == 1, WAIT_S)
    [kept] = first.assigned
    with monkeypatch.context() as patched:
        patched.setattr(KafkaStreamConsumer, "identity", stale)
        with pytest.raises(TransientStreamError, match="IllegalGeneration"):
            await transactions.commit({kept: due(predictions, "c", 1)})
    again = {kept: Due(3, [*due(predictions, "c", 1).caused, *due(predictions, "d", 2).caused])}
    assert await committed(transactions, again, first, second) == {kept: 3}
    assert await committed(transactions, {1 - kept: due(predictions, "not ours", 1)}, first, second) == {}
    transactions._drop()  # as after an error: whether the last one was committed is asked for
    assert await committed(transactions, again, first, second) == {kept: 3}
    seen = [record.key for record in await asyncio.to_thread(committed_records, kafka.bootstrap, predictions)]
    assert sorted(seen) == [b"a", b"b", b"c", b"d"]
    await transactions.close()
    await first.close()
    await second.close()
    await world.close()


async def test_what_a_killed_process_left_open_is_ended_by_whoever_takes_its_partitions_over(
    tmp_path: Path, kafka: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = open_world(tmp_path, kafka, transaction_timeout_s=600)
    predictions = world.topics.predictions
    dead = await owning(world, 2)
    left = world.stream.transactions(dead)
    assert isinstance(left, KafkaTransactions)
    await left.commit({})

    def leave_open(*_: object) -> None:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr("semievold.streams.kafka.client.transactions.TransactionalSender._wait", leave_open)
        with pytest.raises(TransientStreamError, match="killed here"):
            await left.commit({0: due(predictions, "q", 0)})
    assert await asyncio.to_thread(world.stream.topics.open_transaction, predictions) is not None
    await dead.close()
    heir = await owning(world, 2)
    transactions = world.stream.transactions(heir)
    assert transactions is not None
    await transactions.commit({})  # nothing is due; it takes over
    assert await asyncio.to_thread(world.stream.topics.open_transaction, predictions) is None
    assert await transactions.commit({0: due(predictions, "q", 0)}) == {0: 1}
    seen = await asyncio.to_thread(committed_records, kafka.bootstrap, predictions)
    assert [record.key for record in seen] == [b"q"]
    for each in (left, transactions, heir, world):
        await each.close()


async def test_a_dead_letter_that_does_not_fit_is_cut_and_its_neighbours_go_with_it_once(
    tmp_path: Path, kafka: KafkaBroker
) -> None:
    world = open_world(tmp_path, kafka)
    consumer = await owning(world, 2)
    transactions = world.stream.transactions(consumer)
    assert transactions is not None
    letter = OutgoingRecord("large", b"x" * 400_000, {"reason": "r"})
    prediction = OutgoingRecord("too large to be cut", b"y" * 400_000)
    caused = [
        Caused(0, world.topics.predictions, OutgoingRecord("q", b"v")),
        Caused(1, world.topics.dead_letter, letter),
        Caused(2, world.topics.predictions, prediction),
        Caused(3, world.topics.predictions, OutgoingRecord("r", b"v")),
    ]
    assert await transactions.commit({0: Due(4, caused)}) == {0: 4}
    seen = await asyncio.to_thread(committed_records, kafka.bootstrap, world.topics.predictions)
    assert sorted(record.key for record in seen) == [b"q", b"r"]
    [cut] = await asyncio.to_thread(committed_records, kafka.bootstrap, world.topics.dead_letter)
    assert cut.key == b"large"
    assert len(cut.value) == 100_000
    await transactions.close()
    await consumer.close()
    await world.close()


async def test_a_transaction_longer_than_the_broker_allows_is_a_clear_error(tmp_path: Path, kafka: KafkaBroker) -> None:
    world = open_world(tmp_path, kafka, transaction_timeout_s=10_000)
    with pytest.raises(ConfigError, match=r"transaction_timeout_s: 10000 s.*transaction\.max\.timeout\.ms"):
        await run_until(world.intake(RuleLabeller()), lambda: False, WAIT_S)
    await world.close()


async def test_each_query_has_its_prediction_when_the_intake_stops_and_starts(
    tmp_path: Path, kafka: KafkaBroker
) -> None:
    world = open_world(tmp_path, kafka)
    ids = [f"q{number}" for number in range(60)]
    await world.ask(*ids[:30])
    await world.send(world.topics.queries, [b"broken"])
    await run_until(world.intake(RuleLabeller()), lambda: world.labels.counts().total >= 10, WAIT_S)
    await world.ask(*ids[30:], *ids[:5])
    intake = world.intake(RuleLabeller())
    await run_until(intake, lambda: lag(world) == 0, WAIT_S)
    seen = await asyncio.to_thread(committed_records, kafka.bootstrap, world.topics.predictions)
    assert sorted(json.loads(record.value)["id"] for record in seen) == sorted(ids)
    assert len(await asyncio.to_thread(committed_records, kafka.bootstrap, world.topics.dead_letter)) == 1
    assert world.labels.counts() == (60, 0, 0)
    await world.close()


def lag(world: World) -> int:
    return sum(each.lag for each in world.stream.offsets(world.topics.queries, "intake"))
