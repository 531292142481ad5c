"""The loop of the intake while nothing may be read: it waits, and everything else in the process goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from semievold.intake import exactly_once
from semievold.intake.role import Intake
from semievold.streams.protocol import Due, StreamRecord
from tests.stream_world import RuleLabeller, World


class Kafka:
    """A consumer with records at hand, which never lets anybody else run, and transactions that go on until `ended`."""

    assigned = frozenset({0})
    waits_for = None

    def __init__(self, records: list[StreamRecord]) -> None:
        self.records = records
        self.polls = 0
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        self.committed: dict[int, int] = {}

    async def poll(self, max_records: int, timeout_s: float) -> list[StreamRecord]:
        self.polls += 1
        if max_records and not self.records:
            await asyncio.sleep(timeout_s)
        taken, self.records = self.records[:max_records], self.records[max_records:]
        return taken

    def revoked(self) -> frozenset[int]:
        return frozenset()

    async def lag(self) -> int:
        return len(self.records)

    async def passed(self) -> dict[int, int]:
        return {}

    async def commit(self, due: Mapping[int, Due]) -> dict[int, int]:
        if any(each.caused for each in due.values()):
            self.begun.set()
            await self.ended.wait()
        self.committed |= {partition: each.next_offset for partition, each in due.items()}
        return {partition: each.next_offset for partition, each in due.items()}

    async def close(self) -> None:
        pass


async def test_a_transaction_on_which_reading_waits_gets_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exactly_once, "HELD_RECORDS", 4)
    world = World(tmp_path)
    records = [StreamRecord("queries", 0, offset, None, b"{", {}, 0.0) for offset in range(8)]
    kafka = Kafka(records)
    monkeypatch.setattr(world.stream, "transactions", lambda _: kafka)
    intake: Intake = world.intake(RuleLabeller(), consumer=kafka, lag_interval_s=3600.0, poll_timeout_s=0.05)

    step, turns = intake._step, 0

    async def counted(stop: asyncio.Event) -> None:
        nonlocal turns
        turns += 1
        assert turns <= 500, "the intake goes around without a pause"  # no timeout ends a loop that lets nobody run
        await step(stop)

    monkeypatch.setattr(intake, "_step", counted)
    stop = asyncio.Event()
    running = asyncio.create_task(intake.run(stop))
    begun = asyncio.create_task(kafka.begun.wait())
    await asyncio.wait({running, begun}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    assert begun.done(), running
    polls = kafka.polls
    await asyncio.sleep(0.3)
    assert 1 <= kafka.polls - polls <= 10, "it looks now and then"
    assert len(kafka.records) == 4, "nothing more is read"
    kafka.ended.set()
    async with asyncio.timeout(10):
        while kafka.committed != {0: 8}:
            assert not running.done(), running
            await asyncio.sleep(0.01)
    stop.set()
    await running
    await world.close()
