"""The intake of the benchmarks beside all that looks on in a process of all roles: metrics scraped every second, traces
to a collector, drift, the leader's figures, and shadow pairs. The intervals are shorter than the defaults, or a run of
some seconds would see none of it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

from parts.instant_intake import LABELS, WORKLOAD, InstantGenerator, Run, run_intake

from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievold.config.daemon import ROLES, DaemonConfig
from semievold.config.streams import IntakeSettings, StreamSettings
from semievold.drift.watch import DriftWatch
from semievold.drift.weighing import Batch, WeigherApart
from semievold.monitoring.metrics import Metrics
from semievold.monitoring.state_metrics import StateMetrics
from semievold.monitoring.state_watch import StateWatch
from semievold.rounds.lease import ControlLease
from semievold.rounds.places import RoundPlace
from semievold.rounds.tools import RoundTools
from semievold.rounds.watching.pairs import ShadowPairs
from semievold.store.database import Database
from semievold.store.stores import Stores, stores_over
from semievold.streams.protocol import Stream
from semievold.tracing import open_tracing

SCRAPE_S, LOOK_S = 1.0, 1.0


def collect(answer: Connection) -> None:
    """A collector of traces in a process of its own, which takes everything and keeps nothing."""

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    answer.send(server.server_port)
    server.serve_forever()


@asynccontextmanager
async def looked_on(stores: Stores, config: DaemonConfig, metrics: Metrics) -> AsyncIterator[None]:
    """Everything but the traces, as long as the block lasts."""
    shown, task = StateMetrics(WORKLOAD, lambda: True), Task(config.task)
    metrics.registry.register(shown)
    equality, place = AnswerEquality(task), RoundPlace.under(config.artifacts.directory)
    lease = ControlLease(stores.leases, 10.0, exclusive=True)
    apart = WeigherApart(f"sqlite:///{stores.database.file}", WORKLOAD, config.drift, len(LABELS), 1)
    drift = DriftWatch(config.drift, stores, lease, equality, len(LABELS), 1, stores.database.now, apart)
    figures = StateWatch(shown, stores, WORKLOAD, place, lambda: True, 1.0, time.monotonic)
    # Of an engine, pairs ask the generator alone.
    unused: dict[str, Any] = dict.fromkeys(("index", "embedder", "label", "launcher", "fleet", "alias"))
    tools = RoundTools(stores, task, InstantGenerator(), **unused, equality=equality)
    pairs = ShadowPairs(config, tools)
    round_ = stores.rounds.plan("evolve", "bench", 1, "a1", {})

    async def scrape() -> None:
        while True:
            metrics.render()
            await figures.look()
            await asyncio.sleep(SCRAPE_S)

    async def look() -> None:
        while True:
            while await asyncio.to_thread(drift.look):
                pass
            await asyncio.sleep(LOOK_S)

    # The process in which drift is weighed is there before: a daemon begins one once, a run would for each of them.
    await asyncio.to_thread(apart.weigh, Batch(stores.drift.position(), 0.0, 1, "a1"))
    async with pairs.beside(round_):
        running = [asyncio.create_task(scrape()), asyncio.create_task(look())]
        yield
        for each in running:
            each.cancel()
            with suppress(asyncio.CancelledError):
                await each
        apart.close()
    assert metrics.render()
    assert stores.drift.detectors(), "drift was not looked at"


async def run_watched(
    database: Database, stream: Stream, topics: StreamSettings, settings: IntakeSettings, queries: int
) -> Run:
    """As `run_intake`, with all of it on."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    collector = multiprocessing.get_context("spawn").Process(target=collect, args=(sender,), daemon=True)
    collector.start()
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{receiver.recv()}"
    stores = stores_over(database, WORKLOAD, WORKLOAD)
    with tempfile.TemporaryDirectory() as directory:
        config = DaemonConfig.model_validate(
            {
                "workload": WORKLOAD,
                "model": {"name": "none"},
                "task": {"labels": list(LABELS)},
                "tracing": {"enabled": True},
                # The queries are the same in each run: a drift that is found in them by chance would spare the rest.
                "drift": {"settled_s": 0.001, "false_alarm_every": 1_000_000},
                "artifacts": {"directory": directory},
            }
        )
        stores.alias.move("a1")
        tracing = open_tracing(config.tracing, WORKLOAD, frozenset(ROLES))
        assert tracing is not None
        metrics = Metrics(WORKLOAD)
        metrics.begin(ROLES)
        async with looked_on(stores, config, metrics):
            run = await run_intake(database, stream, topics, settings, queries, metrics.stored, tracing)
        tracing.close()
    collector.terminate()
    return run
