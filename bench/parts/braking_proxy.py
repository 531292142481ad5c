"""A proxy in front of one server that can brake: it delays answers and lets only so many requests a second through.

Counts what was asked and what was answered, so that an answered request that is asked again is seen.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

_LONGEST_SIGN_S = 1.0
"""Health checks are delayed by no more: a server that needs longer to say that it lives counts as dead anywhere."""


@dataclass
class Counts:
    """Of requests for answers, by their content, over all proxies that share it."""

    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    twice: int = 0
    """Requests that had been answered when they were asked again."""

    def ask(self, key: str) -> None:
        self.twice += self.answered[key] > 0
        self.asked[key] += 1


class BrakingProxy:
    """Listens on a port of its own. `rate` None: the brake is off."""

    def __init__(self, upstream: str, counts: Counts) -> None:
        self.upstream = upstream
        self.counts = counts
        self.rate: float | None = None
        self.delay_s = 0.0
        self.url = ""
        self._next_at = 0.0
        self._released = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """As a host that is gone: connections break, and nothing listens."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    def brake(self, rate: float, delay_s: float) -> None:
        """So many answers a second, in order of arrival, each later by `delay_s`; health checks are delayed alone."""
        self.rate, self.delay_s, self._next_at = rate, delay_s, 0.0
        self._released.clear()

    def release(self) -> None:
        """The brake is off, also for what waits in it."""
        self.rate, self.delay_s = None, 0.0
        self._released.set()

    async def _pass(self, request: web.Request) -> web.Response:
        body = await request.read()
        answers = request.method == "POST" and request.path.endswith("/completions")
        key = hashlib.sha256(body).hexdigest()
        if answers:
            self.counts.ask(key)
            await self._wait_for_turn()
        if self.delay_s:
            await self._wait(self.delay_s if answers else min(self.delay_s, _LONGEST_SIGN_S))
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name in ("Authorization", "Content-Type")}
        try:
            async with self._session.request(
                request.method, self.upstream + request.path_qs, data=body, headers=headers
            ) as response:
                content = await response.read()
        except aiohttp.ClientError as error:
            return web.json_response({"error": {"message": repr(error)}}, status=502)
        if answers and response.status == 200:
            self.counts.answered[key] += 1
        return web.Response(body=content, status=response.status, content_type=response.content_type)

    async def _wait_for_turn(self) -> None:
        if self.rate is None:
            return
        now = time.monotonic()
        self._next_at = max(now, self._next_at + 1.0 / self.rate)
        await self._wait(self._next_at - now)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._released.wait()
        except TimeoutError:
            pass
