"""The intake on a real Kafka broker that is stopped, killed and shared: every query labelled once, and soon again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from semievold.errors import TransientStreamError
from semievold.intake.role import Intake
from tests.servers.kafka import KafkaBroker
from tests.stream_world import RuleLabeller, World, forkserver, until

RECOVERY_S = 30.0
DELIVERY_S = 10
BACKLOG = 400
"""Queries that wait for their label at most: on a slow machine the load must not outrun what is tested."""


def open_world(directory: Path, bootstrap: str, partitions: int = 4) -> World:
    kafka = {"bootstrap_servers": bootstrap, "session_timeout_s": 6, "delivery_timeout_s": DELIVERY_S}
    return World(directory, kind="kafka", kafka={**kafka, "partitions": partitions})


def open_intake(world: World, labeller: RuleLabeller | None = None) -> Intake:
    return world.intake(labeller or RuleLabeller(slowly), batch_size=16, commit_interval_s=0.2, stop_timeout_s=15.0)


async def slowly(_: object) -> None:
    await asyncio.sleep(0.02)


class Load:
    """Asks new queries without pause; one that may not have arrived is asked again, as a careful client would."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: list[str] = []
        self.unheard = 0  # attempts that were not confirmed

    async def run(self) -> None:
        while True:
            ids = [f"q{len(self.asked) + n}" for n in range(20)]
            while not await self._ask(ids):
                self.unheard += 1
            self.asked += ids
            await asyncio.sleep(0.02)
            while await self._waiting() > BACKLOG:  # noqa: ASYNC110 - a count in a database has no event
                await asyncio.sleep(0.1)

    async def _waiting(self) -> int:
        return len(self.asked) - (await asyncio.to_thread(self.world.labels.counts)).total

    async def _ask(self, ids: list[str]) -> bool:
        try:
            await self.world.ask(*ids)
        except TransientStreamError:
            await asyncio.sleep(0.1)
            return False
        return True


@contextlib.asynccontextmanager
async def under_load(world: World) -> AsyncIterator[Load]:
    """Load for the time of the block; what was being asked at its end is asked to its end."""
    load = Load(world)
    task = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    rest = [f"q{len(load.asked) + n}" for n in range(20)]
    await world.ask(*rest)
    load.asked += rest


@contextlib.asynccontextmanager
async def running(intake: Intake) -> AsyncIterator[asyncio.Event]:
    """The intake works for the time of the block, unless the yielded event stops it earlier."""
    stop = asyncio.Event()
    task = asyncio.create_task(intake.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        await task


async def labels_more(world: World, count: int, within_s: float) -> float:
    """Wait until so many more queries are labelled than now; the seconds that took."""
    before, started = world.labels.counts().total, time.monotonic()
    await until(lambda: world.labels.counts().total >= before + count, within_s)
    return time.monotonic() - started


async def assert_each_labelled_once(world: World, load: Load) -> None:
    """All work is done and committed, and nothing was done twice in the state or differently in the predictions."""
    queries, predictions = world.topics.queries, world.topics.predictions
    await until(lambda: world.labels.counts().total >= len(load.asked), RECOVERY_S)
    assert world.labels.counts() == (len(load.asked), 0, 0)
    assert all(world.labels.known([identity]) for identity in load.asked)
    contents = defaultdict(set)
    for record in await world.read(predictions):
        contents[json.loads(record.value or b"")["id"]].add(record.value)
    assert contents.keys() == set(load.asked)
    assert all(len(of_one) == 1 for of_one in contents.values())
    offsets = await asyncio.to_thread(world.stream.offsets, queries, "intake")
    assert not any(each.lag for each in offsets)


async def all_done(world: World, load: Load) -> None:
    """Wait until every query is labelled and what was asked twice is read too: it may lie behind the last new one."""
    await until(lambda: world.labels.counts().total >= len(load.asked), RECOVERY_S)
    deadline = time.monotonic() + RECOVERY_S
    while any(each.lag for each in await asyncio.to_thread(world.stream.offsets, world.topics.queries, "intake")):
        assert time.monotonic() < deadline, "records stayed unread"
        await asyncio.sleep(0.2)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("away", "away_s"), [("stop", 1.0), ("kill", 3.0), ("kill", DELIVERY_S + 4.0)], ids=["restart", "kill", "long"]
)
async def test_the_intake_goes_on_when_the_broker_is_back(
    tmp_path: Path, broker: KafkaBroker, away: str, away_s: float
) -> None:
    world = open_world(tmp_path, broker.bootstrap)
    intake = open_intake(world)
    async with running(intake):
        async with under_load(world) as load:
            await labels_more(world, 200, RECOVERY_S)
            await asyncio.to_thread(getattr(broker, away))
            await asyncio.sleep(away_s)  # how long the broker is away is the point
            await asyncio.to_thread(broker.start)
            took_s = await labels_more(world, 200, RECOVERY_S)
        await all_done(world, load)
    print(f"{away}, {away_s:.0f} s away: 200 more labelled {took_s:.1f} s after the broker's return")
    await assert_each_labelled_once(world, load)
    await world.close()


@pytest.mark.timeout(240)
async def test_intakes_join_and_leave_under_load(tmp_path: Path, broker: KafkaBroker) -> None:
    """Of eight partitions four intakes get two each; one after the other leaves, and nothing is lost or done twice."""
    worlds = [open_world(tmp_path, broker.bootstrap, partitions=8) for _ in range(4)]
    world, (first, *others) = worlds[0], [open_intake(each) for each in worlds]

    def shares() -> list[int]:
        return [len(each._consumer.assigned) for each in (first, *others)]

    async with running(first):
        async with under_load(world) as load:
            await labels_more(world, 100, RECOVERY_S)
            async with contextlib.AsyncExitStack() as stack:
                for each in others:
                    await stack.enter_async_context(running(each))
                await until(lambda: shares() == [2] * 4, RECOVERY_S)
                await until(lambda: all(each.counters.labelled >= 40 for each in others), RECOVERY_S)
            assert await labels_more(world, 200, RECOVERY_S) < RECOVERY_S
            await until(lambda: len(first._consumer.assigned) == 8, RECOVERY_S)
        await all_done(world, load)
    await assert_each_labelled_once(world, load)
    for each in worlds:
        await each.close()


def live(directory: str, bootstrap: str, working: Event) -> None:
    """An intake in a process of its own, until it is killed."""

    async def main() -> None:
        world = open_world(Path(directory), bootstrap)
        intake = open_intake(world)
        async with running(intake):
            await until(lambda: intake.counters.labelled >= 100, 60.0)
            working.set()
            await asyncio.Event().wait()

    asyncio.run(main())


@pytest.mark.timeout(240)
async def test_the_work_of_a_killed_intake_is_taken_over(tmp_path: Path, broker: KafkaBroker) -> None:
    world = open_world(tmp_path, broker.bootstrap)
    await asyncio.to_thread(world.stream.topics.ensure, world.topics.queries)
    working = forkserver().Event()
    process = forkserver().Process(target=live, args=(str(tmp_path), broker.bootstrap, working))
    intake = open_intake(world)
    async with under_load(world) as load:
        process.start()
        async with running(intake):
            assert await asyncio.to_thread(working.wait, 60)
            await until(lambda: len(intake._consumer.assigned) == 2)  # the other two are the process's
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            await until(lambda: len(intake._consumer.assigned) == 4, RECOVERY_S)
    async with running(open_intake(world)):
        await all_done(world, load)
    await assert_each_labelled_once(world, load)
    await world.close()
