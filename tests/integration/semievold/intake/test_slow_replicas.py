"""A fleet that lost nine tenths of its speed, and then a replica: labels go on coming, at what it still manages.

The same on a real vLLM behind a proxy is bench/slow_server.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from semievol.config.method import Configuration, LabellingConfig, TaskConfig
from semievol.engines.vllm import FixedServers, VllmGenerator
from semievol.engines.vllm_client import VllmClient
from semievol.http.server_address import ServerAddress
from semievol.labelling.collaboration import CollaborativeLabeller
from semievol.tasks.task import Task
from semievold.intake.role import Intake
from tests.slow_server import SlowServer
from tests.stream_world import ANSWERS, World, until

SECONDS = 0.4
PLACES = 16
BRAKED = 2
FULL_RATE = PLACES / SECONDS
BRAKED_RATE = BRAKED / SECONDS
QUERIES = 4_000
CLOSED = LabellingConfig(
    justify=False, configurations=(Configuration(name="greedy", temperature=0.0, neighbours=0),), batch_size=32
)


@asynccontextmanager
async def running(intake: Intake) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(intake.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def labels_a_second(intake: Intake, seconds: float) -> float:
    """Over so long, counted from label to label."""
    began, before = time.monotonic(), intake.counters.labelled
    await asyncio.sleep(seconds)
    return (intake.counters.labelled - before) / (time.monotonic() - began)


@pytest.mark.timeout(120)
async def test_a_slow_fleet_labels_at_what_it_manages_and_asks_nothing_twice(tmp_path: Path) -> None:
    servers = [SlowServer(seconds=SECONDS, places=BRAKED, text="odd") for _ in range(2)]
    for server in servers:
        await server.start()
    client = VllmClient()
    pool = FixedServers(client, [ServerAddress(f"s{n}", server.url) for n, server in enumerate(servers)])
    generator = VllmGenerator(client, pool, timeout_s=3.0)
    world = World(tmp_path)
    await world.ask(*(f"q{number}" for number in range(QUERIES)))
    labeller = CollaborativeLabeller(generator, None, Task(TaskConfig(labels=ANSWERS)), CLOSED, 0)
    intake = world.intake(labeller, batch_size=32, stop_timeout_s=0.5, commit_interval_s=0.1)
    async with running(intake):
        await until(lambda: intake.counters.labelled > 0, timeout_s=3.0)  # from the first moment on
        assert await labels_a_second(intake, 10.0) >= 0.8 * 2 * BRAKED_RATE
        await servers[1].stop()
        await asyncio.sleep(1.0)
        assert await labels_a_second(intake, 8.0) >= 0.8 * BRAKED_RATE
        servers[0].release(PLACES)
        released = time.monotonic()
        while await labels_a_second(intake, 3.0) < 0.8 * FULL_RATE:
            assert time.monotonic() - released < 45.0, "not at full speed within a minute"
    assert [server.asked_again for server in servers] == [[], []]
    both = servers[0].answered + servers[1].answered
    assert max(both.values()) == 1
    assert await world.dead_letters() == []
    await generator.close()
    await servers[0].stop()
    await world.close()
