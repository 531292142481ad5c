"""What other people's producers send: compressed in every way, in transactions that end well, badly, or not at all."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from pathlib import Path

import pytest
from kafka import codec as codecs

from semievol.errors import ConfigError
from semievold.streams.protocol import OutgoingRecord
from tests.servers.kafka import KafkaBroker, java_source
from tests.stream_world import RuleLabeller, World, run_until

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
PER_CODEC = 66
"""In committed transactions, as many in aborted and in open ones: 990 and one in all."""
WAIT_S = 60.0


def open_world(directory: Path, broker: KafkaBroker, **options: object) -> World:
    mine = uuid.uuid4().hex[:8]
    names = {name: f"{name}-{mine}" for name in ("queries", "labels", "predictions", "review", "dead_letter")}
    reached = {"bootstrap_servers": broker.bootstrap, "session_timeout_s": 6, "partitions": 2, **options}
    return World(directory, kind="kafka", kafka=reached, **names)


async def java(broker: KafkaBroker, topic: str, codecs: str, count: int) -> None:
    command = java_source("Transactions.java", broker.bootstrap, topic, codecs, str(count))
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=WAIT_S)
    assert "asked" in done.stdout, done.stderr[-2000:]


async def test_of_a_thousand_records_in_transactions_exactly_the_committed_ones_are_labelled_once(
    tmp_path: Path, kafka: KafkaBroker
) -> None:
    world = open_world(tmp_path, kafka)
    queries = world.topics.queries
    await asyncio.to_thread(world.stream.topics.ensure, queries)
    await java(kafka, queries, ",".join(CODECS), PER_CODEC)
    expected = {f"committed-{codec}-{number}" for codec in CODECS for number in range(PER_CODEC)}

    intake = world.intake(RuleLabeller(), batch_size=64)
    await run_until(intake, lambda: world.labels.counts().total == len(expected) and intake.held is not None)
    said = intake.held or ""
    assert f"waiting for an open transaction of the producer '{queries}-" in said
    assert "600 s (its transaction.timeout.ms)" in said
    assert await asyncio.to_thread(world.stream.topics.open_transaction, queries) is not None
    lag = [each.lag for each in await asyncio.to_thread(world.stream.offsets, queries, "intake")]
    assert lag == [0, 0]  # what cannot be read yet, and the ends of transactions, keep nobody waiting

    await java(kafka, queries, ",".join(CODECS), 0)  # the producers come back: what they left open is taken back
    expected.add("committed-last-0")
    intake = world.intake(RuleLabeller(), batch_size=64)
    await run_until(intake, lambda: world.labels.counts().total >= len(expected) and sum_of_lag(world) == 0)
    assert intake.held is None
    assert await asyncio.to_thread(world.stream.topics.open_transaction, queries) is None
    predicted = [json.loads(record.value or b"")["id"] for record in await world.read(world.topics.predictions)]
    assert sorted(predicted) == sorted(expected)
    assert world.labels.counts() == (len(expected), 0, 0)
    assert await world.dead_letters() == []
    await world.close()


def sum_of_lag(world: World) -> int:
    return sum(each.lag for each in world.stream.offsets(world.topics.queries, "intake"))


@pytest.mark.parametrize("codec", CODECS)
async def test_what_is_published_compressed_is_read_again(tmp_path: Path, kafka: KafkaBroker, codec: str) -> None:
    world = open_world(tmp_path, kafka, compression=codec)
    await world.send(world.topics.labels, [{"id": f"e{n}", "question": "a" * 500} for n in range(50)])
    read = await world.read(world.topics.labels)
    assert sorted(record.key or "" for record in read) == sorted(f"e{n}" for n in range(50))
    await world.close()


async def test_a_codec_whose_package_is_missing_is_named_with_the_extra_and_not_tried_for_ever(
    tmp_path: Path, kafka: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending, reading = open_world(tmp_path, kafka, compression="zstd"), open_world(tmp_path, kafka, compression="lz4")
    await sending.send(sending.topics.queries, [{"id": "q1", "question": "a" * 500}])  # short ones stay as they are
    for name in ("zstd", "lz4"):
        monkeypatch.setattr(codecs, name, None)
    with pytest.raises(ConfigError, match=r"zstd.*semievol\[kafka\].*zstandard"):
        await run_until(sending.intake(RuleLabeller()), lambda: False)
    with pytest.raises(ConfigError, match=r"lz4.*semievol\[kafka\]"):
        await reading.producer.publish(reading.topics.queries, [OutgoingRecord("k", b"v")])
    await sending.close()
    await reading.close()
