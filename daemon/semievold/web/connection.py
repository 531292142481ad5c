"""One connection of a front: aiohttp's, with an end to everything that a client can put off.

Owns the times and sizes of what comes before a request's handler and after its answer: half a head, a body that nobody
reads, an answer that the client does not take, bytes that are no HTTP. Invariant: none of these lasts longer than its
limit, is parsed or unpacked after its refusal, or costs more than one line in the log.
"""

from __future__ import annotations

import asyncio
import logging
import select
from contextlib import suppress
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from semievold.config.fronts import ServerConfig
from semievold.web.connections import Connections, address_of
from semievold.web.errors import error

log = logging.getLogger("semievold.web")

MAX_HEAD_BYTES = 65_536
"""Request line and headers; more than any proxy in front lets through."""
LINGER_S = 1.0
LINGER_BYTES = 4 * 1024 * 1024
"""What a refused client gets to take its answer before the connection is reset under its unread body."""
CLOSING_S = 5.0
"""What a closed connection gets to take the last bytes."""
LINE_EVERY_S = 1.0
"""At most one line about malformed requests in this time, for all clients together."""


class Malformed:
    """Says in the log that requests were malformed: a line now and then, whatever many come."""

    def __init__(self) -> None:
        self._next = 0.0
        self._left_out = 0

    def tell(self, address: str, problem: str, now: float) -> None:
        if now < self._next:
            self._left_out += 1
            return
        more = f" ({self._left_out} more since the last line)" if self._left_out else ""
        log.warning("a request from %s is not HTTP: %s%s", address, _printable(problem), more)
        self._next, self._left_out = now + LINE_EVERY_S, 0


class Connection(web.RequestHandler):
    """aiohttp's connection, bounded."""

    __slots__ = (
        "_closed",
        "_closing_since",
        "_config",
        "_connections",
        "_dropping",
        "_head_bytes",
        "_head_since",
        "_known",
        "_malformed",
        "_stalled_s",
        "_stalled_since",
        "_wire",
        "address",
        "expects_invitation",
        "since",
    )

    def __init__(
        self,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        connections: Connections,
        malformed: Malformed,
        config: ServerConfig,
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to have none
            keepalive_timeout=config.keep_alive_s,
            lingering_time=0,  # `finish` does it, without unpacking
            auto_decompress=False,  # semievold.web.body_limits does it, once a handler wants the body
        )
        self._connections, self._malformed, self._config = connections, malformed, config
        self._wire: asyncio.Transport | None = None
        self._closed: asyncio.Future[None] | None = None
        self._dropping: int | None = None
        self._known = False
        self._head_bytes = 0
        self._head_since: float | None = None
        self._stalled_s = 0.0
        self._stalled_since: float | None = None
        self._closing_since: float | None = None
        self.expects_invitation = False
        self.address = ""
        self.since = 0.0

    # --- from the transport -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        self._head_since = self._loop.time()
        self.address = address_of(transport.get_extra_info("peername"))
        super().connection_made(transport)
        self._connections.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.leave(self)
        self._wire = None
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._dropping is not None:
            self._dropping -= len(data)
            if self._dropping < 0 and self._closed is not None and not self._closed.done():
                self._closed.set_result(None)
            return
        parsed = self._request_count
        super().data_received(data)
        if self._request_count != parsed:
            self._head_since, self._head_bytes = None, 0
        elif data and self._waiter is not None and not self._waiter.done():
            if self._head_since is None:
                self._head_since = self._loop.time()
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._malformed.tell(self.address, "its head is too large", self._loop.time())
                self.cut()

    def pause_writing(self) -> None:
        self._stalled_since = self._loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        if self._stalled_since is not None:
            self._stalled_s += self._loop.time() - self._stalled_since
            self._stalled_since = None
        super().resume_writing()

    # --- what is bounded --------------------------------------------------------------------------------------------

    def overdue(self, now: float) -> bool:
        """Whether the client had its time: for a head, for taking an answer, for the last bytes."""
        if self._wire is None:
            return False
        if self._wire.is_closing():
            self._closing_since = now if self._closing_since is None else self._closing_since
            return now - self._closing_since > CLOSING_S
        if self._head_since is not None and now - self._head_since > self._config.head_timeout_s:
            return True
        stalled_s = 0.0 if self._stalled_since is None else now - self._stalled_since
        return self._stalled_s + stalled_s > self._config.idle_timeout_s

    def cut(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    def unread(self, request: web.BaseRequest) -> bool:
        """Whether the client sent, or will send, something that belongs to the request and that nobody read."""
        return self._upgraded or not request.content.is_eof()

    async def invite(self, request: web.BaseRequest) -> None:
        """Tell a client that asked for it (`Expect: 100-continue`) to send the body."""
        if self.expects_invitation:
            self.expects_invitation = False
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # the answer has not begun

    def hold(self) -> bool:
        """A request came with the right token; see `Connections.hold`."""
        self._known = True
        return self._connections.hold(self)

    def crowded(self) -> bool:
        """Whether a client that showed no token sent several requests at once: it is answered one of them."""
        return not self._known and bool(self._messages)

    def close_unless_asked(self) -> None:
        """Close it if it waits for a request of which nothing has come; one that has is the last (`parts`)."""
        waits = self._waiter is not None and not self._waiter.done() and self._head_bytes == 0
        if waits and self._wire is not None and not _has_come(self._wire):
            self.force_close()  # aiohttp's `close` ends the waiting alone, and leaves the connection open

    def parts(self) -> bool:
        """Whether the front stops: this answer is the connection's last."""
        return self._connections.parting

    async def finish(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Send an answer whose request has a body that nobody read, and close: the rest is dropped as it comes.

        A connection that is closed with bytes unread is reset, and the client would see that instead of its answer.
        """
        response.force_close()
        self._dropping = LINGER_BYTES
        try:
            if not response.prepared:
                await response.prepare(request)
            await response.write_eof()
            wire = self._wire
            if wire is None:
                return
            self._closed = self._loop.create_future()
            if wire.can_write_eof():
                wire.write_eof()
            with suppress(RuntimeError):
                wire.resume_reading()
            async with asyncio.timeout(LINGER_S):
                await self._closed
        except (TimeoutError, ConnectionError):
            pass  # it had its time, or has left
        self.close()

    def done(self) -> None:
        """The answer to a request has gone, or is with the kernel."""
        self._stalled_s = 0.0
        self.expects_invitation = False
        self._connections.release(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is answered where no handler was reached, or one failed without an answer."""
        malformed = isinstance(exc, HttpProcessingError)
        if malformed:
            self._malformed.tell(self.address, f"{type(exc).__name__}: {message or exc}", self._loop.time())
        else:
            log.error("a request from %s failed", self.address, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; there is no place for an error")
        if malformed:
            response = error(400, "bad_request", "the request is not valid HTTP/1.1")
        else:
            response = error(status, "internal_error", "an unexpected error; the daemon's log has it")
        response.force_close()
        return response


def _has_come(wire: asyncio.Transport) -> bool:
    """Whether the kernel has bytes of the client that the loop has not seen."""
    descriptor = wire.get_extra_info("socket").fileno()
    if descriptor < 0 or not hasattr(select, "poll"):  # it is closed, or this is Windows
        return False
    looked = select.poll()
    looked.register(descriptor, select.POLLIN)
    return bool(looked.poll(0))


def _printable(text: str) -> str:
    """In one short line of ASCII: what strangers send is not for a terminal."""
    return ascii(" ".join(text.split()))[1:-1][:200]


def connection_of(request: web.BaseRequest) -> Connection | None:
    """The request's connection; None where the application runs on another server than `semievold.web.server`."""
    return request.protocol if isinstance(request.protocol, Connection) else None
