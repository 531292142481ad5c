"""A daemon is killed while a round trains and the replica on its GPU sleeps: its next life wakes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.daemon_process import DaemonProcess, example, tiny_config
from tests.sleeping_server import SleepingServer

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def server() -> AsyncIterator[SleepingServer]:
    it = SleepingServer()
    await it.start()
    yield it
    await it.stop()


@pytest.fixture
async def daemon(server: SleepingServer, tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    config = tiny_config(
        tmp_path,
        generation={"kind": "vllm", "replicas": [server.url]},
        training={"share_gpu": "sleep", "warm_epochs": 2000},
    )
    process = DaemonProcess(config)
    yield process
    await asyncio.to_thread(process.stop)


async def until(daemon: DaemonProcess, what: Callable[[], object]) -> None:
    await asyncio.to_thread(daemon.wait_until, what)


async def test_a_replica_that_a_killed_daemon_left_asleep_is_woken_when_its_round_ends(
    daemon: DaemonProcess, server: SleepingServer
) -> None:
    daemon.start()
    await asyncio.to_thread(daemon.wait_ready)
    assert (await asyncio.to_thread(daemon.chat, "red 1")).status_code == 200
    await asyncio.to_thread(daemon.publish, "labels", [example(number) for number in range(40)])
    log = daemon.data / "rounds" / "r0000" / "work" / "progress.json"
    await until(daemon, lambda: server.asleep and log.exists())
    refused = await asyncio.to_thread(daemon.chat, "red 1")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "30")
    assert (await asyncio.to_thread(daemon.get, "/readyz")).json()["ready"]
    status = await asyncio.to_thread(daemon.status)
    said = f"{server.name} rests while round 0 trains on its GPU (training.share_gpu)"
    assert status["held"]["replicas"] == said
    assert [each["state"] for each in status["replicas"]] == ["asleep"]

    daemon.kill()
    assert server.asleep
    daemon.start()
    await until(daemon, lambda: daemon.status()["replicas"] and daemon.rounds()[0]["state"] == "training")
    await asyncio.to_thread(daemon.post, "/v1/rounds/0/cancel")
    await until(daemon, lambda: daemon.rounds()[0]["state"] == "cancelled")
    await until(daemon, lambda: "replicas" not in daemon.status()["held"])
    await until(daemon, lambda: daemon.chat("red 1").status_code == 200)
    assert not server.asleep
    assert server.calls[0] == "sleep"
    assert server.calls[-1] == "wake up"
    assert server.broken == []
