import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from semievol.errors import ConfigError
from semievold.config.streams import StreamSettings
from semievold.store.database import Database
from semievold.streams import local
from semievold.streams.local import LocalStream
from semievold.streams.protocol import OutgoingRecord, StreamRecord
from tests.stream_world import RuleLabeller, World, forkserver, run_until, until


def out(*values: str, key: str | None = None) -> list[OutgoingRecord]:
    return [OutgoingRecord(key, value.encode()) for value in values]


def values(records: list[StreamRecord]) -> list[str]:
    return [(record.value or b"").decode() for record in records]


def open_stream(path: str, partitions: int = 1) -> LocalStream:
    settings = StreamSettings(poll_interval_s=0.02, lock_retry_s=0.02, partitions=partitions)
    return LocalStream(Database(f"sqlite:///{path}"), settings)


def produce(path: str, name: str, count: int, partitions: int) -> None:
    async def main() -> None:
        producer = open_stream(path, partitions).producer()
        for number in range(0, count, 5):
            await producer.publish(
                "t", [OutgoingRecord(f"{name}{n}", f"{n}".encode()) for n in range(number, number + 5)]
            )

    asyncio.run(main())


def hold_partition(path: str, ready: object) -> None:
    async def main() -> None:
        consumer = open_stream(path).consumer("t", "g")
        records = await consumer.poll(1, 5.0)
        await consumer.commit({0: records[0].offset + 1})
        ready.set()  # type: ignore[attr-defined]
        await asyncio.sleep(60)

    asyncio.run(main())


async def test_a_record_arrives_as_it_was_sent(tmp_path: Path) -> None:
    world = World(tmp_path)
    sent = [OutgoingRecord("ключ", b"\xff\x00", {"h": "ä"}), OutgoingRecord(None, None)]
    before = time.time()
    await world.stream.producer().publish("t", sent)
    records = await world.stream.consumer("t", "g").poll(10, 0.0)
    assert [(r.topic, r.partition, r.offset, r.key, r.value, r.headers) for r in records] == [
        ("t", 0, 0, "ключ", b"\xff\x00", {"h": "ä"}),
        ("t", 0, 1, None, None, {}),
    ]
    assert before <= records[0].timestamp <= time.time()


async def test_a_group_goes_on_from_its_commit_and_groups_do_not_disturb_each_other(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.stream.producer().publish("t", out("a", "b", "c"))
    first = world.stream.consumer("t", "g")
    assert values(await first.poll(2, 0.0)) == ["a", "b"]
    assert await first.lag() == 3
    await first.commit({0: 1})
    assert await first.lag() == 2
    await first.close()
    again = world.stream.consumer("t", "g")
    assert values(await again.poll(10, 0.0)) == ["b", "c"]
    assert values(await world.stream.consumer("t", "other").poll(10, 0.0)) == ["a", "b", "c"]


async def test_without_a_commit_everything_is_delivered_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.stream.producer().publish("t", out("a"))
    first = world.stream.consumer("t", "g")
    await first.poll(10, 0.0)
    await first.close()
    assert values(await world.stream.consumer("t", "g").poll(10, 0.0)) == ["a"]


async def test_a_partition_has_one_owner_and_a_standby_takes_over(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.stream.producer().publish("t", out("a", "b"))
    owner, standby = world.stream.consumer("t", "g"), world.stream.consumer("t", "g")
    assert values(await owner.poll(1, 0.0)) == ["a"]
    assert await standby.poll(1, 0.1) == []
    assert (owner.assigned, standby.assigned) == ({0}, frozenset())
    await standby.commit({0: 2})  # not the owner: left out
    await owner.commit({0: 1})
    await owner.close()
    assert values(await standby.poll(10, 5.0)) == ["b"]


async def test_the_kernel_frees_the_partition_of_a_killed_process(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.stream.producer().publish("t", out("a", "b"))
    ready = forkserver().Event()
    process = forkserver().Process(target=hold_partition, args=(str(tmp_path / "state.db"), ready))
    process.start()
    assert await asyncio.to_thread(ready.wait, 30)
    standby = world.stream.consumer("t", "g")
    assert await standby.poll(10, 0.1) == []
    os.kill(process.pid or 0, signal.SIGKILL)
    assert values(await standby.poll(10, 10.0)) == ["b"]
    process.join()


@pytest.mark.parametrize("partitions", [1, 3])
async def test_offsets_have_no_gaps_with_producers_in_several_processes(tmp_path: Path, partitions: int) -> None:
    world = World(tmp_path, partitions=partitions)
    path = str(tmp_path / "state.db")
    processes = [forkserver().Process(target=produce, args=(path, name, 100, partitions)) for name in "abc"]
    for process in processes:
        process.start()
    records: list[StreamRecord] = []
    consumer = world.stream.consumer("t", "g")
    async with asyncio.timeout(60):
        while len(records) < 300:
            records += await consumer.poll(1000, 0.5)
    for process in processes:
        process.join()
    for partition in range(partitions):
        mine = [record for record in records if record.partition == partition]
        assert [record.offset for record in mine] == list(range(len(mine)))
        for name in "abc":
            sent = [int(record.value or b"") for record in mine if (record.key or "").startswith(name)]
            assert sent == sorted(sent)
    assert len({record.key for record in records}) == 300


async def test_one_key_stays_in_one_partition(tmp_path: Path) -> None:
    world = World(tmp_path, partitions=4)
    producer = world.stream.producer()
    for number in range(10):
        await producer.publish("t", out(str(number), key="k"))
    records = await world.stream.consumer("t", "g").poll(100, 0.0)
    assert len({record.partition for record in records}) == 1
    assert values(records) == [str(n) for n in range(10)]


async def test_a_busy_partition_does_not_starve_the_others(tmp_path: Path) -> None:
    world = World(tmp_path, partitions=2)
    await world.stream.producer().publish("t", out(*map(str, range(200))))
    consumer = world.stream.consumer("t", "g")
    seen = {record.partition for _ in range(4) for record in await consumer.poll(5, 0.0)}
    assert seen == {0, 1}


async def test_partitions_that_another_setting_wrote_are_read(tmp_path: Path) -> None:
    writer = World(tmp_path, partitions=3)
    await writer.stream.producer().publish("t", out(*map(str, range(30))))
    reader = World(tmp_path, partitions=1)
    consumer = reader.stream.consumer("t", "g")
    assert len(await consumer.poll(100, 0.0)) == 30
    assert consumer.assigned == {0, 1, 2}


async def test_a_waiting_reader_is_woken_by_a_writer_of_its_process(tmp_path: Path) -> None:
    world = World(tmp_path, poll_interval_s=60.0)
    waiting = asyncio.create_task(world.stream.consumer("t", "g").poll(10, 60.0))
    await until(lambda: bool(world.stream._bells["t"]._waiting))
    await world.stream.producer().publish("t", out("a"))
    assert values(await asyncio.wait_for(waiting, 10)) == ["a"]


async def test_a_poll_without_records_ends_at_its_timeout(tmp_path: Path) -> None:
    started = time.monotonic()
    assert await World(tmp_path).stream.consumer("t", "g").poll(10, 0.1) == []
    assert 0.1 <= time.monotonic() - started < 5


async def test_a_reader_whose_hands_are_full_fetches_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.stream.producer().publish("t", out("a"))
    consumer = world.stream.consumer("t", "g")
    assert await consumer.poll(0, 60.0) == []
    assert values(await consumer.poll(1, 0.0)) == ["a"]


async def test_lag_is_known_before_the_first_poll(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.stream.producer().publish("t", out("a", "b"))
    assert await world.stream.consumer("t", "g").lag() == 2


def kept(world: World, topic: str) -> list[int]:
    """The offsets of the records that were not deleted."""
    with world.database.read() as connection:
        query = "select offset from stream_records where topic = ? order by offset"
        return list(connection.exec_driver_sql(query, (topic,)).scalars())


async def test_old_records_are_deleted_once_every_group_has_read_them(tmp_path: Path) -> None:
    world = World(tmp_path, retention_s=1e-6)
    producer, consumer = world.stream.producer(), world.stream.consumer("t", "g")
    await consumer.poll(1, 0.0)
    await producer.publish("t", out("a", "b", "c"))
    await producer.publish("t", out("d"))
    assert kept(world, "t") == [0, 1, 2, 3]  # the group has begun, and has read nothing
    await consumer.commit({0: 2})
    await producer.publish("t", out("e"))
    assert kept(world, "t") == [2, 3, 4]
    await consumer.commit({0: 5})
    await producer.publish("other", out("x"))
    assert kept(world, "t") == [2, 3, 4]
    await producer.publish("t", out("f"))
    assert kept(world, "t") == [5]
    assert [record.offset for record in await world.stream.consumer("t", "new").poll(10, 0.0)] == [5]


async def test_old_records_go_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "DELETED_AT_ONCE", 2)
    world = World(tmp_path, retention_s=0.2)
    producer, consumer = world.stream.producer(), world.stream.consumer("t", "g")
    await consumer.poll(1, 0.0)
    await producer.publish("t", out(*"abcde"))
    await consumer.commit({0: 5})
    await asyncio.sleep(0.3)  # they grow old
    left = []
    for key in "fgh":
        await producer.publish("t", out(key))
        left.append(kept(world, "t"))
    assert left == [[2, 3, 4, 5], [4, 5, 6], [5, 6, 7]]


async def test_what_the_daemon_will_read_waits_for_its_first_start_and_for_its_first_commit(tmp_path: Path) -> None:
    world = World(tmp_path, retention_s=1e-6)
    topics = world.topics
    for topic in (topics.queries, topics.labels, topics.predictions):
        await world.producer.publish(topic, out("a", "b"))
        await world.producer.publish(topic, out("c"))
    assert [kept(world, topic) for topic in (topics.queries, topics.labels)] == [[0, 1, 2], [0, 1, 2]]
    assert kept(world, topics.predictions) == [2]  # nobody has to read these
    intake = world.intake(RuleLabeller(), ready=asyncio.Event())  # held until there is a warm adapter
    await run_until(intake, lambda: intake.counters.lag == 3)
    await world.producer.publish(topics.queries, out("d"))
    assert kept(world, topics.queries) == [0, 1, 2, 3]
    await world.close()


def test_a_server_database_is_refused_with_the_way_out() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(ConfigError, match=r"stream\.kind"):
        LocalStream(Database("postgresql+psycopg://user@host/db"), StreamSettings())
