"""Who comes in at the gateway: how many requests at once, what one may ask for, and nobody new during the stop.

Owns the count of requests in flight and the checks of a body before anything is bound to it; its size is limited in
`semievold.web.body_limits`. Invariant: what was admitted is counted until it ends, so that the stop can wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from semievold.config.fronts import GatewayConfig
from semievold.web.body_limits import read_json
from semievold.web.errors import error


def retry_later(response: web.Response, seconds: int = 1) -> web.Response:
    """Tell the client when it is worth asking again."""
    response.headers["Retry-After"] = str(seconds)
    return response


class Admission:
    """Lets requests in, and at the stop no more."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    def full(self) -> web.Response | None:
        """The answer where there is no room for another request; None: there is."""
        if self._in_flight < self._config.max_in_flight:
            return None
        return retry_later(error(429, "busy", f"{self._in_flight} requests are in flight; try again"))

    @contextmanager
    def counted(self) -> Iterator[None]:
        """One request is in flight in the block."""
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
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
        }
        for name, limit in limits.items():
            value = body.get(name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
                raise web.HTTPBadRequest(text=f"{name}: not a whole number from 1 to {limit}")
