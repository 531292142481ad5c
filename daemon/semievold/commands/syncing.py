"""`semievold sync-adapters`: keeps the adapters on object storage in a directory that an engine reads.

Owns the process: the looks again and again, health, metrics, stop. What a look does is serving.storage.sync. Runs
beside an engine that shares no volume with the daemon, and asks nothing of the state.
Invariant: it is ready when everything that was published has been here once; a storage that is away later on takes
nothing away, and so leaves it ready.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import generate_latest

from semievol.engines.vllm_client import VllmClient
from semievol.errors import ConfigError, TransientError
from semievol.http.server_address import ServerAddress
from semievol.plain_lines import log_plainly
from semievold.config.fronts import ServerConfig
from semievold.event_loop import run_loop
from semievold.monitoring.sync_metrics import SyncMetrics
from semievold.retry import set_within
from semievold.serving.storage.opening import open_storage
from semievold.serving.storage.sync import AdapterSync
from semievold.supervisor import Supervisor
from semievold.web.errors import error
from semievold.web.server import run_server

if TYPE_CHECKING:
    from semievold.serving.storage.object_storage import AdapterStorage

log = logging.getLogger(__name__)

STUCK_S = 900.0
"""A look that has not ended after this long will not: a large adapter over a slow line takes minutes."""
STOP_S = 5.0


class Sidecar:
    """The process around `AdapterSync`."""

    def __init__(self, sync: AdapterSync, storage: str, every_s: float) -> None:
        self._sync = sync
        self._storage = storage
        self._every_s = every_s
        self._begun = time.monotonic()
        self._complete = False
        self._problem: str | None = None
        self.metrics = SyncMetrics()

    async def run(self, stop: asyncio.Event) -> None:
        """Look until stopped."""
        while not stop.is_set():
            self._begun = time.monotonic()
            try:
                self.metrics.looked(await self._sync.look())
            except TransientError as failure:
                self.metrics.failed()
                if self._problem is None:
                    log.warning("%s; what is here stays, and it is asked again every %g s", failure, self._every_s)
                self._problem = str(failure)
            else:
                if self._problem is not None:
                    log.info("%s answers again", self._storage)
                self._problem, self._complete = None, True
            await set_within(stop, self._every_s)

    def app(self) -> web.Application:
        """Health, readiness and metrics."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        looking_s = time.monotonic() - self._begun
        if looking_s > STUCK_S + self._every_s:
            return error(503, "unavailable", f"a look at {self._storage} has gone on for {looking_s:.0f} s")
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        if not self._complete:
            return error(503, "unavailable", self._problem or f"the first look at {self._storage} has not ended")
        return web.json_response({"status": "ok", "problem": self._problem})

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def sync_adapters(storage: str, into: Path, engine: str | None, every_s: float, host: str, port: int) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigError: the storage's driver is missing, the directory cannot be written, or the port is taken.
    """
    log_plainly("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S", logging.INFO)
    opened = open_storage(storage)
    assert opened is not None
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise ConfigError(
            f"--into: {into} cannot be made ({failure.strerror}); give a directory to write to"
        ) from failure
    return run_loop(_run(opened, into.resolve(), engine, every_s, ServerConfig(host=host, port=port)))


async def _run(storage: AdapterStorage, into: Path, engine: str | None, every_s: float, front: ServerConfig) -> int:
    client = VllmClient()
    address = None if engine is None else ServerAddress.at(engine, None)

    async def loaded() -> frozenset[str] | None:
        if address is None:
            return None
        with suppress(TransientError):
            return await client.models(address)
        return None

    supervisor = Supervisor(STOP_S)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.request_stop, signal.Signals(number).name)
    sidecar = Sidecar(AdapterSync(storage, into, loaded), str(storage), every_s)
    supervisor.add("sync", sidecar.run, stage=0)
    supervisor.add("front", lambda stop: run_server(sidecar.app(), front, "--port", lambda *_: None, stop), stage=1)
    try:
        return await supervisor.run()
    finally:
        await client.close()
