"""What is in a transaction: all that the records below its offsets cause, once, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from semievol.errors import TransientError
from semievold.intake.exactly_once import HELD_RECORDS, TransactionalCommits
from semievold.retry import Health
from semievold.streams.protocol import Due, OutgoingRecord, StreamRecord


class Kafka:
    """A consumer and its transactions in one; keeps what is committed, unless it is away."""

    def __init__(self) -> None:
        self.assigned = frozenset({0, 1})
        self.away = False
        self.lost: frozenset[int] = frozenset()
        self.calls = 0
        self.committed: dict[int, int] = {}
        self.published: list[str | None] = []

    def revoked(self) -> frozenset[int]:
        lost, self.lost = self.lost, frozenset()
        return lost

    async def commit(self, due: Mapping[int, Due]) -> dict[int, int]:
        self.calls += 1
        if self.away:
            raise TransientError("the broker is away")
        for partition, each in due.items():
            self.committed[partition] = each.next_offset
            self.published += [caused.record.key for caused in each.caused]
        return {partition: each.next_offset for partition, each in due.items()}


class World:
    def __init__(self) -> None:
        self.kafka, self.marked, self.health = Kafka(), [""], Health()
        self.told: list[str | None] = []
        self.commits = TransactionalCommits(
            self.kafka,  # type: ignore[arg-type]
            self.kafka,  # type: ignore[arg-type]
            self.published,
            self.mark,
            0.0,
            self.health,
        )

    def published(self, topic: str, keys: Sequence[str | None]) -> None:
        self.told += keys

    async def mark(self) -> None:
        self.marked = list(filter(None, self.told))

    def record(self, offset: int, partition: int = 0) -> StreamRecord:
        return StreamRecord("queries", partition, offset, None, b"", {}, 0.0)

    def deliver(self, *offsets: int) -> None:
        self.commits.delivered([self.record(offset) for offset in offsets])

    def cause(self, *offsets: int) -> None:
        self.commits.causes("p", [(self.record(at), OutgoingRecord(f"q{at}", b"v")) for at in offsets])

    def finish(self, *offsets: int) -> None:
        self.cause(*offsets)
        self.commits.finished([self.record(offset) for offset in offsets])

    async def commit(self) -> None:
        await self.commits.commit()
        await self.settled()

    async def settled(self) -> None:
        if self.commits._going_on is not None:
            await self.commits._going_on


async def test_what_is_behind_an_unfinished_record_waits_for_it() -> None:
    world = World()
    world.deliver(3, 4, 5)
    world.finish(4, 5)
    await world.commit()
    assert (world.kafka.published, world.kafka.committed) == ([], {})
    world.finish(3)
    await world.commit()
    assert (world.kafka.published, world.kafka.committed) == (["q3", "q4", "q5"], {0: 6})
    assert world.marked == ["q3", "q4", "q5"]


async def test_a_transaction_that_failed_is_done_again_with_what_has_come_since() -> None:
    world = World()
    world.deliver(0, 1)
    world.finish(0)
    world.kafka.away = True
    await world.commit()
    assert world.marked == [""]
    assert world.health.degraded == "transaction: the broker is away"
    await world.commit()
    assert world.kafka.calls == 1  # not at once
    world.kafka.away = False
    world.finish(1)
    await world.commits.commit_last()
    assert (world.kafka.published, world.kafka.committed) == (["q0", "q1"], {0: 2})
    assert world.health.degraded is None
    await world.commits.commit_last()
    assert world.kafka.published == ["q0", "q1"]


async def test_what_a_lost_partition_caused_is_left_to_its_next_owner() -> None:
    world = World()
    world.deliver(0, 1)
    world.finish(0, 1)
    world.kafka.lost = frozenset({0})
    world.deliver(0)  # it came back, and is read again from its commit
    world.cause(1)  # work of its former life
    await world.commit()
    assert world.kafka.published == []
    world.finish(0)
    await world.commit()
    assert (world.kafka.published, world.kafka.committed) == (["q0"], {0: 1})


async def test_a_record_that_causes_nothing_is_committed_too() -> None:
    world = World()
    world.deliver(0)
    world.commits.finished([world.record(0)])
    await world.commit()
    assert (world.kafka.published, world.kafka.committed) == ([], {0: 1})


async def test_new_partitions_are_taken_over_without_waiting_for_a_record() -> None:
    world = World()
    await world.commit()
    await world.commit()
    assert world.kafka.calls == 1
    world.kafka.assigned = frozenset({0, 1, 2})
    await world.commit()
    assert world.kafka.calls == 2


async def test_reading_waits_while_too_much_waits_for_an_earlier_record() -> None:
    world = World()
    world.deliver(*range(HELD_RECORDS + 1))
    world.finish(*range(1, HELD_RECORDS))
    assert not world.commits.full
    world.finish(HELD_RECORDS)
    assert world.commits.full
    world.finish(0)
    await world.commit()
    assert not world.commits.full
