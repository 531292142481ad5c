"""A front as a supervised task: it listens, says where, and ends with the stop.

Owns the listening socket and the frame around every request: its connection is bounded (`semievold.web.connection`),
and a body that no handler read is dropped. Invariant: nobody is told to send a body before a handler wants it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import HttpVersion11, hdrs, web

from semievol.errors import ConfigError
from semievold.config.fronts import ServerConfig
from semievold.web.connection import Connection, Malformed, connection_of
from semievold.web.connections import Connections
from semievold.web.errors import error

log = logging.getLogger(__name__)

BACKLOG = 1_024
"""Connections that the kernel keeps until they are taken. When it has no room it drops the first packet, and a client
tries again after a second."""
NO_DESCRIPTOR_S = 0.05
PARTING_S = 5.0
"""At a stop, clients get so long to ask once more on the connections that they keep."""
_PARTING_LOOK_S = 0.02


async def serve(
    app: web.Application,
    config: ServerConfig,
    name: str,
    bound: Callable[[str, int], None],
    *,
    cancel_when_gone: bool = False,
    shutdown_timeout_s: float = 5.0,
) -> web.AppRunner:
    """Listen; `bound` is told the address that was taken.

    Args:
        app: the front.
        config: where it listens.
        name: its section in the configuration.
        bound: called with host and port.
        cancel_when_gone: a handler is cancelled when its client has left.
        shutdown_timeout_s: what running handlers get when the runner is cleaned up.

    Raises:
        ConfigError: the port is taken.
    """
    app.on_response_prepare.append(_say_that_it_parts)
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=shutdown_timeout_s, handler_cancellation=cancel_when_gone
    )
    await runner.setup()
    site = _Site(runner, config)
    try:
        await site.start()
    except OSError as failure:
        await runner.cleanup()
        raise ConfigError(f"{name}.port: cannot listen on {config.host}:{config.port}: {failure.strerror}") from failure
    host, port = site.address
    bound(host, port)
    log.info("%s listens on %s:%d for up to %d connections", name, host, port, site.connections.most)
    return runner


async def _say_that_it_parts(request: web.Request, response: web.StreamResponse) -> None:
    """As aiohttp's signal `on_response_prepare`: a stream begins within its handler."""
    connection = connection_of(request)
    if connection is not None and connection.parts():
        response.headers[hdrs.CONNECTION] = "close"
        response.force_close()


async def take_leave(runner: web.AppRunner) -> None:
    """Until all connections are closed, and no client has failed for it: each is closed with its next answer, which
    says so, and one on which nothing is asked for PARTING_S is closed then; nobody new is let in from that moment on.

    Few clients ask again when they are told to, or find the connection that they kept closed just as they ask.
    """
    sites = [site for site in runner.sites if isinstance(site, _Site)]
    await asyncio.gather(*(site.take_leave() for site in sites))


async def run_server(
    app: web.Application, config: ServerConfig, name: str, bound: Callable[[str, int], None], stop: asyncio.Event
) -> None:
    """An eternal task around `serve`."""
    runner = await serve(app, config, name, bound)
    try:
        await stop.wait()
    finally:
        await runner.cleanup()


class _Site(web.BaseSite):
    """Listens, and takes one connection after the other.

    The loop's own server takes all that wait in one go, each with a descriptor, before any of them can be counted.
    """

    def __init__(self, runner: web.AppRunner, config: ServerConfig) -> None:
        super().__init__(runner)
        self._config = config
        self._malformed = Malformed()
        self._loop = asyncio.get_running_loop()
        self.connections = Connections(config, self._loop.time)
        self._listeners: list[socket.socket] = []
        self._taking: list[asyncio.Task[None]] = []

    @property
    def name(self) -> str:
        return f"http://{self._config.host}:{self._config.port}"

    async def start(self) -> None:
        await super().start()
        server = self._runner.server
        assert server is not None
        server.request_handler = _framed(server.request_handler)
        config = self._config
        for family, kind, protocol, _, address in await self._loop.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            listener = socket.socket(family, kind, protocol)
            self._listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        self._taking = [asyncio.create_task(self._take(listener, server)) for listener in self._listeners]
        self.connections.start(self._loop)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that were taken."""
        host, port = self._listeners[0].getsockname()[:2]
        return host, port

    async def take_leave(self) -> None:
        """See the function of this name."""
        self.connections.parting = True
        deadline = self._loop.time() + PARTING_S
        while len(self.connections) and self._loop.time() < deadline:  # noqa: ASYNC110 - at a stop alone
            await asyncio.sleep(_PARTING_LOOK_S)
        await self._take_no_more()
        while len(self.connections):
            for connection in self.connections.waiting():
                connection.close_unless_asked()
            await asyncio.sleep(_PARTING_LOOK_S)

    async def stop(self) -> None:
        self.connections.stop()
        await self._take_no_more()
        await super().stop()

    async def _take_no_more(self) -> None:
        for task in self._taking:
            task.cancel()
        await asyncio.gather(*self._taking, return_exceptions=True)
        for listener in self._listeners:
            listener.close()

    async def _take(self, listener: socket.socket, server: web.Server) -> None:
        while True:
            try:
                taken, _ = await self._loop.sock_accept(listener)
                await self._loop.connect_accepted_socket(
                    lambda: Connection(server, self._loop, self.connections, self._malformed, self._config), taken
                )
            except OSError as failure:  # it left again, or the system has no descriptor for it
                log.debug("a connection could not be taken: %s", failure)
                await asyncio.sleep(NO_DESCRIPTOR_S)


Handle = Callable[[Any], Awaitable[web.StreamResponse]]


def _framed(handle: Handle) -> Handle:
    """The application's handler, between the head that came and the body that may not have."""

    async def framed(request: web.BaseRequest) -> web.StreamResponse:
        connection = connection_of(request)
        expected = request.headers.get(hdrs.EXPECT)
        try:
            if expected is None or connection is None:
                response = await handle(request)
            else:
                response = await _without_expectation(request, expected, connection, handle)
            if connection is not None and connection.unread(request):
                await connection.finish(request, response)
            elif connection is not None and (connection.crowded() or (connection.parts() and not response.prepared)):
                response.force_close()
            return response
        finally:
            if connection is not None:
                connection.done()

    return framed


async def _without_expectation(
    request: web.BaseRequest, expected: str, connection: Connection, handle: Handle
) -> web.StreamResponse:
    """`Expect: 100-continue` is for whoever reads the body; aiohttp would say "continue" before it looks at a token."""
    if expected.strip().lower() != "100-continue":
        with suppress(web.HTTPExpectationFailed):
            return await handle(request)
        return error(417, "expectation_failed", "Expect: only 100-continue is known")
    rest = request.headers.copy()
    del rest[hdrs.EXPECT]
    connection.expects_invitation = request.version >= HttpVersion11  # older clients do not know the word
    handled = request.clone(headers=rest)
    try:
        return await handle(handled)
    finally:
        # aiohttp prepares the answer with the request that it knows, and asks it for the signals of its application.
        if isinstance(request, web.Request) and isinstance(handled, web.Request):
            request._match_info = handled._match_info
