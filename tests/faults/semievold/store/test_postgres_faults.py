"""PostgreSQL restarted, killed and slow to return; the leader killed and paused: the same work goes on, once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from semievol import adapter_directory
from semievold.config.streams import RetrySettings
from semievold.store.stores import Stores, open_stores
from tests.daemon_process import DaemonProcess, example, query, tiny_config
from tests.servers.postgres import PostgresServer
from tests.stream_world import RuleLabeller, World, until

pytestmark = pytest.mark.timeout(600)

RECOVERY_S = 30.0
START_S = 240.0  # on a machine with other work: each daemon imports torch
DAEMON = Path(__file__).with_name("postgres_daemon.py")
EXAMPLES, QUERIES = 60, 24


async def test_every_query_is_labelled_once_while_postgres_is_restarted_and_killed(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    world = World(tmp_path, url=own_postgres.create_database())
    labeller = RuleLabeller(lambda _: asyncio.sleep(0.02))
    intake = world.intake(labeller, batch_size=8, max_in_flight_batches=3, retry=RetrySettings())
    stop, asked = asyncio.Event(), 0
    running = asyncio.create_task(intake.run(stop))

    async def more(count: int) -> None:
        nonlocal asked
        await world.ask(*(f"q{number}" for number in range(asked, asked + count)))
        asked += count

    async def labelled(total: int, within_s: float) -> None:
        await until(lambda: running.done() or intake.counters.labelled >= total, within_s)
        assert not running.done()

    try:
        for mode in ("fast", "immediate", "fast"):
            await more(200)
            await labelled(asked - 150, 30.0)  # in the middle of the work
            await asyncio.to_thread(own_postgres.stop, mode)
            await more(50)  # a fast intake may have labelled all the others before the server was gone
            await until(lambda: intake.counters.degraded is not None, 30.0)
            await asyncio.to_thread(own_postgres.start)
            await labelled(intake.counters.labelled + 1, RECOVERY_S)
        await labelled(asked, 60.0)
        await until(lambda: world.committed("intake", world.topics.queries) == asked, 30.0)
        assert intake.counters.degraded is None
    finally:
        stop.set()
        await running
    assert world.labels.counts() == (asked, 0, 0)
    predictions = defaultdict(set)
    for record in await world.read(world.topics.predictions):
        predictions[json.loads(record.value or b"")["id"]].add(record.value)
    assert predictions.keys() == {f"q{number}" for number in range(asked)}
    assert all(len(contents) == 1 for contents in predictions.values())
    await world.close()


class Pair:
    """`semievold run`, which leads, and a controller of its own as its standby, on one state and one directory."""

    def __init__(self, server: PostgresServer, directory: Path, stack: ExitStack) -> None:
        url = server.create_database()
        config = tiny_config(
            directory,
            store={"url": url},
            stream={"kind": "kafka", "kafka": {"bootstrap_servers": ["127.0.0.1:9"]}},  # DAEMON opens another
            lease={"ttl_s": 5.0},
            training={"warm_epochs": 60, "checkpoint_steps": 10},
        )
        environment = {"STREAM_FILE": str(directory / "stream.db")}
        self.main = DaemonProcess(config, DAEMON, environment)
        self.standby = DaemonProcess(config, DAEMON, environment, role="control")
        self.main.start()
        stack.callback(self._end, self.main)
        self.main.wait_until(lambda: self.main.status()["leader"], START_S)
        self.standby.start()
        stack.callback(self._end, self.standby)
        self.standby.wait_ready(START_S)  # a standby is ready
        assert self.standby.status()["leader"] is False
        self.stores: Stores = open_stores(url, "tiny", "tiny")
        stack.callback(self.stores.database.close)

    def feed(self) -> None:
        self.main.publish("labels", [example(number) for number in range(EXAMPLES)])
        self.main.publish("queries", [query(number) for number in range(QUERIES)])

    def training_step(self) -> int:
        round_: dict[str, Any] = self.standby.status()["round"] or {}
        return int((round_.get("training") or {}).get("step") or 0)

    def assert_standby_takes_over(self) -> None:
        before = self.standby.status()["lease"]["epoch"]
        started = time.monotonic()
        self.standby.wait_until(lambda: self.standby.status()["leader"], RECOVERY_S)
        assert time.monotonic() - started < RECOVERY_S
        assert self.standby.status()["lease"]["epoch"] == before + 1
        assert b'semievol_leader{workload="tiny"} 1.0' in self.standby.get("/metrics").content

    def assert_round_ended_once(self) -> None:
        self.standby.wait_until(lambda: self.standby.rounds()[0]["state"] == "settled", 200.0)
        assert len(self.stores.rounds.all()) == 1
        moves = [event["to_state"] for event in self.stores.rounds.events(0)]
        assert len(moves) == len(set(moves)) == 9
        assert self.stores.alias.get().generation == 1
        for version in self.stores.adapters.all():
            assert adapter_directory.verify(version.path).content_hash == version.content_hash

    def assert_main_serves(self) -> None:
        """It follows the alias, which another process moved, and works on."""
        self.main.wait_until(lambda: self.main.status()["pseudo_labels"]["total"] == QUERIES)
        answer = self.main.chat("red 1")
        assert answer.headers["x-semievol-adapter"] == self.stores.alias.get().adapter
        assert self.main.status()["leader"] is False
        assert self.main.get("/readyz").status_code == 200

    @staticmethod
    def _end(daemon: DaemonProcess) -> None:
        if daemon.running:
            os.kill(daemon.pid, signal.SIGCONT)
            daemon.kill()


@pytest.fixture
def pair(postgres: PostgresServer, tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(postgres, tmp_path, stack)


def test_the_standby_ends_the_round_of_a_leader_that_was_killed(pair: Pair) -> None:
    pair.feed()
    pair.standby.wait_until(lambda: pair.training_step() >= 20)
    pair.main.kill()
    pair.assert_standby_takes_over()
    pair.assert_round_ended_once()
    pair.main.start()
    pair.main.wait_ready(START_S)
    pair.assert_main_serves()
    before = pair.stores.leases.get()
    assert pair.standby.stop() == 0
    released = pair.stores.leases.get()
    assert before is not None
    assert released is not None
    assert released.left_s < 0 or released.epoch > before.epoch  # given up, or already taken by the other
    pair.main.wait_until(lambda: pair.main.status()["leader"], RECOVERY_S)


def test_a_leader_that_was_paused_wakes_up_as_a_standby(pair: Pair) -> None:
    pair.feed()
    pair.standby.wait_until(lambda: pair.training_step() >= 20)
    os.kill(pair.main.pid, signal.SIGSTOP)
    pair.assert_standby_takes_over()
    os.kill(pair.main.pid, signal.SIGCONT)
    pair.assert_round_ended_once()
    pair.assert_main_serves()
