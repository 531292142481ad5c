"""Who comes in at the gateway: how many requests at once, what one may ask for, and nobody new during the stop.

Owns the count of requests in flight and the checks of a body before anything is bound to it; its size is limited in
`semievold.web.body_limits`. Invariant: what was admitted is counted until it ends, so that the stop can wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from semievold.config.fronts import GatewayConfig
from semievold.gateway.quotas import Quotas, Reservation
from semievold.web.body_limits import read_json
from semievold.web.errors import error, retry_later


class Admission:
    """Lets requests in, and at the stop no more."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._quotas = Quotas(config.tokens, time.monotonic)
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    def full(self, holder: str, count: int = 1, tokens: int = 0) -> web.Response | Reservation:
        """The answer where there is no room for `count` requests more of a token's holder, of up to `tokens` in all;
        else what they have taken of its minute.

        Raises:
            web.HTTPBadRequest: there never is room for so many at once.
        """
        largest = min(self._quotas.largest(holder) or self._config.max_in_flight, self._config.max_in_flight)
        if count > largest:
            raise web.HTTPBadRequest(text=f"prompt: a list of {count} counts as {count} requests; send up to {largest}")
        if self._in_flight + count > self._config.max_in_flight:
            return retry_later(error(429, "busy", f"{self._in_flight} requests are in flight; try again"))
        return self.excess(holder, count, tokens)

    def excess(self, holder: str, count: int = 1, tokens: int = 0) -> web.Response | Reservation:
        """The answer where the token's holder asks for more than its limits; else what is taken of its minute."""
        excess = self._quotas.excess(holder, count, tokens)
        if isinstance(excess, Reservation):
            return excess
        message = f"{excess.reason}; try again in {excess.retry_after_s} s"
        return retry_later(error(429, "rate_limit_exceeded", message), excess.retry_after_s)

    def metered(self, holder: str) -> bool:
        """Whether the tokens of the holder's requests are counted."""
        return self._quotas.metered(holder)

    def rate_headers(self, holder: str) -> dict[str, str]:
        """What is left of the holder's minute."""
        return self._quotas.headers(holder)

    @contextmanager
    def counted(self, holder: str, count: int = 1) -> Iterator[None]:
        """So many requests of a token's holder are in flight in the block."""
        self._in_flight += count
        self._idle.clear()
        try:
            with self._quotas.counted(holder, count):
                yield
        finally:
            self._in_flight -= count
            if self._in_flight == 0:
                self._idle.set()

    async def drained(self) -> None:
        """Let nobody new in, and wait `drain_s` for those who are; what still runs then is cut."""
        self._draining = True
        try:
            async with asyncio.timeout(self._config.drain_s):
                await self._idle.wait()
        except TimeoutError:
            return

    @web.middleware
    async def open_to_new(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """While draining, send the client to another gateway, on another connection."""
        gone = self._draining
        response: web.StreamResponse
        response = error(503, "stopping", "this gateway is stopping; ask again") if gone else await handler(request)
        if self._draining and not response.prepared:
            response.force_close()
        return response

    async def read_object(self, request: web.Request) -> dict[str, Any]:
        """The body, as `read_json` has it.

        Raises:
            web.HTTPException: it is late, no JSON object, or sent as something else.
        """
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="Content-Type: send application/json")
        body = await read_json(request)
        if not isinstance(body, dict):
            raise web.HTTPBadRequest(text="body: not a JSON object")
        return body

    def check(self, body: Mapping[str, Any]) -> None:
        """Whether one request may ask for so much.

        Raises:
            web.HTTPBadRequest: more answers or tokens than `max_n` and `max_tokens` allow, or `stream` is no truth.
        """
        if not isinstance(body.get("stream"), (bool, type(None))):
            raise web.HTTPBadRequest(text="stream: not true or false")
        limits = {
            "n": self._config.max_n,
            "best_of": self._config.max_n,
            "max_tokens": self._config.max_tokens,
            "max_completion_tokens": self._config.max_tokens,
            "min_tokens": self._config.max_tokens,
            "max_output_tokens": self._config.max_tokens,
        }
        for name, limit in limits.items():
            value = body.get(name)
            lowest = 0 if name == "min_tokens" else 1
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= limit:
                raise web.HTTPBadRequest(text=f"{name}: not a whole number from {lowest} to {limit}")
