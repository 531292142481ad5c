"""What a stranger can put off or pile up at a listening front: each comes to an end, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from aiohttp import web

from semievold.config.fronts import ServerConfig
from semievold.web import connection as bounded
from semievold.web.access import guarded
from semievold.web.body_limits import limited_app, read_body
from semievold.web.server import serve

pytestmark = pytest.mark.timeout(60)

TOKEN = "token-of-this-front"
AUTHORIZED = f"Authorization: Bearer {TOKEN}\r\n"
LARGE = 64 * 1024 * 1024

Test = Callable[["Listening"], Coroutine[Any, Any, None]]


@dataclass
class Listening:
    """A front, and what its handlers got."""

    port: int
    bodies: list[bytes] = field(default_factory=list)

    async def open(self, sent: str | bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent.encode() if isinstance(sent, str) else sent)
        return reader, writer

    async def answer(self, sent: str | bytes) -> bytes:
        """All that comes until the connection ends."""
        reader, writer = await self.open(sent)
        try:
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()

    async def ended_within(self, reader: asyncio.StreamReader, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while await reader.read(1 << 16):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True


@asynccontextmanager
async def listening(**settings: Any) -> AsyncIterator[Listening]:
    config = ServerConfig(port=0, **{"head_timeout_s": 0.5, "idle_timeout_s": 1.0, "keep_alive_s": 2.0, **settings})
    app = limited_app(config, [guarded(TOKEN, frozenset({"/healthz", "/large"}))])
    it = Listening(0)

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=bytes(LARGE))

    async def post(request: web.Request) -> web.Response:
        it.bodies.append(await read_body(request))
        return web.json_response({"bytes": len(it.bodies[-1])})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/large", large)
    app.router.add_post("/post", post)

    def bound(_: str, port: int) -> None:
        it.port = port

    runner = await serve(app, config, "test", bound, shutdown_timeout_s=0.1)
    try:
        yield it
    finally:
        await runner.cleanup()


@pytest.fixture(params=["asyncio", "uvloop"])
def on_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a test's coroutine against a front, on the loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    monkeypatch.setattr("semievold.web.connections.SWEEP_S", 0.1)

    def run(test: Test, **settings: Any) -> None:
        async def main() -> None:
            async with listening(**settings) as it:
                await test(it)

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    return run


HALF_HEADS = {
    "nothing": b"",
    "half a line": b"GET /heal",
    "half the headers": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ",
    "empty lines": b"\r\n\r\n\r\n\r\n",
    "with the token": f"POST /post HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}".encode(),
}


@pytest.mark.parametrize("sent", HALF_HEADS.values(), ids=HALF_HEADS)
def test_half_a_head_is_not_waited_for(on_loop: Callable[..., None], sent: bytes) -> None:
    async def test(it: Listening) -> None:
        reader, writer = await it.open(sent)
        assert await it.ended_within(reader, 1.5)
        writer.close()

    on_loop(test)


def test_a_head_that_drips_is_not_waited_for_either_also_as_the_second_one(on_loop: Callable[..., None]) -> None:
    async def test(it: Listening) -> None:
        for first in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
            reader, writer = await it.open(first)
            loop, ended = asyncio.get_running_loop(), asyncio.create_task(it.ended_within(reader, 5))
            started = loop.time()
            for byte in b"GET /healthz HTTP/1.1\r\n" * 10:
                if ended.done():
                    break
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)
            assert await ended
            assert loop.time() - started < 1.5
            writer.close()

    on_loop(test, keep_alive_s=60)


def test_an_idle_connection_is_closed_and_one_in_use_is_not(on_loop: Callable[..., None]) -> None:
    async def test(it: Listening) -> None:
        reader, writer = await it.open()
        for _ in range(4):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await reader.readuntil(b"}")
            await asyncio.sleep(0.4)
        assert await it.ended_within(reader, 2.0)
        writer.close()

    on_loop(test, keep_alive_s=0.8)


HEADS_TOO_LARGE = {
    "many headers": b"".join(b"X-%d: y\r\n" % number for number in range(20_000)),
    "large headers": b"".join(b"X-%d: %s\r\n" % (number, b"y" * 8_000) for number in range(120)),
    "one header": b"X: " + b"y" * 1_000_000,
}


@pytest.mark.parametrize("headers", HEADS_TOO_LARGE.values(), ids=HEADS_TOO_LARGE)
def test_a_head_that_is_too_large_is_refused(on_loop: Callable[..., None], headers: bytes) -> None:
    async def test(it: Listening) -> None:
        reader, writer = await it.open(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        ended = asyncio.create_task(it.ended_within(reader, 3))
        try:
            for start in range(0, len(headers), 4_096):
                writer.write(headers[start : start + 4_096])
                await writer.drain()
                await asyncio.sleep(0.001)
        except (ConnectionError, RuntimeError):  # uvloop's words for a transport that is gone
            pass
        assert await ended
        writer.close()

    on_loop(test, head_timeout_s=30.0)


BODIES = {
    "slow": "Content-Length: 100000\r\n\r\n{",
    "endless": "Transfer-Encoding: chunked\r\n\r\n",
    "odd chunks": "Transfer-Encoding: chunked\r\n\r\n1;" + "x" * 5_000,
    "packed": "Content-Encoding: gzip\r\nContent-Length: 100000\r\n\r\n",
    "asked for": "Expect: 100-continue\r\nContent-Length: 100000\r\n\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("path", ["/post", "/unknown"])
def test_without_the_token_a_body_is_neither_asked_for_nor_waited_for(
    on_loop: Callable[..., None], monkeypatch: pytest.MonkeyPatch, path: str, body: str
) -> None:
    def unpacked(*_: Any) -> Any:
        raise AssertionError("unpacked")

    monkeypatch.setattr(zlib, "decompressobj", unpacked)

    async def test(it: Listening) -> None:
        reader, writer = await it.open(f"POST {path} HTTP/1.1\r\nHost: x\r\n{body}")
        async with asyncio.timeout(1.0):
            answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in answer.lower()
        assert await it.ended_within(reader, bounded.LINGER_S + 1.0)
        assert it.bodies == []
        writer.close()

    on_loop(test, idle_timeout_s=30.0)


def test_a_client_that_is_refused_while_it_sends_reads_why(on_loop: Callable[..., None]) -> None:
    async def test(it: Listening) -> None:
        head = f"POST /post HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 3000000\r\n\r\n"
        for sent, status in (
            (head.encode() + bytes(3_000_000), b" 413 "),
            (head.replace(AUTHORIZED, "").encode() + bytes(3_000_000), b" 401 "),
            (head.replace("/post", "/unknown").encode() + bytes(3_000_000), b" 404 "),
        ):
            assert status in (await it.answer(sent)).splitlines()[0]

    on_loop(test)


def test_a_body_that_comes_slowly_with_the_token_is_answered_408(on_loop: Callable[..., None]) -> None:
    async def test(it: Listening) -> None:
        head = f"POST /post HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 100\r\n\r\n"
        reader, writer = await it.open(head)
        dripping = asyncio.create_task(_drip(writer))
        async with asyncio.timeout(3):
            assert b" 408 " in await reader.readline()
        dripping.cancel()
        writer.close()

    on_loop(test)


async def _drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b" ")
        await asyncio.sleep(0.1)


def test_bodies_are_unpacked_for_who_has_the_token_up_to_the_limit(on_loop: Callable[..., None]) -> None:
    raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = raw.compress(b"x" * 1000) + raw.flush()
    limit = 1_048_576

    async def test(it: Listening) -> None:
        for encoding, body, status in (
            ("gzip", gzip.compress(b"x" * 1000), 200),
            ("deflate", zlib.compress(b"x" * 1000), 200),
            ("deflate", deflated, 200),
            ("identity", b"x" * 1000, 200),
            ("gzip", gzip.compress(b"x" * limit), 200),
            ("gzip", gzip.compress(b"x" * (limit + 1)), 413),
            ("gzip", gzip.compress(bytes(300_000_000), 1), 413),
            ("deflate", zlib.compress(bytes(300_000_000), 1), 413),
            ("gzip", gzip.compress(b"x" * 1000)[:-9], 400),
            ("gzip", gzip.compress(b"x") + b"more", 400),
            ("gzip", b"x" * 1000, 400),
            ("br", b"x" * 1000, 415),
            ("gzip, gzip", gzip.compress(gzip.compress(b"x")), 415),
        ):
            head = f"POST /post HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Encoding: {encoding}\r\n"
            head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            answer = await it.answer(head.encode() + body)
            assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (encoding, status, answer[:200])
        assert {len(body) for body in it.bodies} == {1000, limit}

    on_loop(test)


def test_who_is_told_to_continue_is_told_so_once_and_has_the_token(on_loop: Callable[..., None]) -> None:
    async def test(it: Listening) -> None:
        head = f"POST /post HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 2\r\n"
        reader, writer = await it.open(head + "Expect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert b" 417 " in (await it.answer(head + "Expect: a-miracle\r\nConnection: close\r\n\r\n{}")).splitlines()[0]
        assert it.bodies == [b"{}"]

    on_loop(test)


def test_a_client_that_does_not_read_its_answer_is_cut(on_loop: Callable[..., None]) -> None:
    async def test(it: Listening) -> None:
        for requests in (1, 20):
            reader, writer = await it.open(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * requests)
            await asyncio.sleep(0.1)
            await asyncio.sleep(2.0)
            seen = 0
            with contextlib.suppress(ConnectionError):
                while chunk := await reader.read(1 << 20):
                    seen += len(chunk)
            assert seen < LARGE
            writer.close()

    on_loop(test)


def test_malformed_requests_are_answered_in_one_shape_and_logged_in_one_line(
    on_loop: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    bad = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\x1b[31m HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX\x00: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"nonsense\r\n\r\n",
    ]

    async def test(it: Listening) -> None:
        for _ in range(10):
            for sent in bad:
                answer = await it.answer(sent)
                assert answer.startswith(b"HTTP/1."), sent
                assert b"aiohttp" not in answer.partition(b"\r\n\r\n")[2]
                assert b'{"error": {' in answer, sent

    with caplog.at_level(logging.DEBUG):
        on_loop(test)
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 <= len(lines) <= 5
    for record in lines:
        assert record.exc_info is None
        assert record.getMessage().isprintable()


def test_connections_are_bounded_and_health_is_answered_beyond(on_loop: Callable[..., None]) -> None:
    async def test(it: Listening) -> None:
        slow = [await it.open(b"GET /healthz HTTP/1.1\r\nX: ") for _ in range(100)]
        await asyncio.sleep(0.5)
        for _ in range(20):
            async with asyncio.timeout(0.5):
                answer = await it.answer(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b" 200 " in answer.splitlines()[0]
        ended = [await it.ended_within(reader, 0.01) for reader, _ in slow]
        assert sum(not done for done in ended) <= 20
        for _, writer in slow:
            writer.close()

    on_loop(test, head_timeout_s=30.0, max_connections=20, max_connections_per_address=10)


@pytest.mark.parametrize(
    "extra",
    ["Upgrade: websocket\r\nConnection: Upgrade\r\n", "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"],
)
def test_an_upgrade_is_no_way_around(on_loop: Callable[..., None], extra: str) -> None:
    async def test(it: Listening) -> None:
        for method, path in (("GET", "/unknown"), ("POST", "/post"), ("CONNECT", "host:80")):
            answer = await it.answer(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n" + "x" * 1_000)
            assert answer.splitlines()[0].split()[1] in (b"401", b"400")

    on_loop(test)


def test_of_requests_sent_at_once_a_stranger_is_answered_one_and_a_client_all(on_loop: Callable[..., None]) -> None:
    async def test(it: Listening) -> None:
        strangers = await it.answer(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        assert strangers.count(b"HTTP/1.1 200 ") == 1
        post = f"POST /post HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 2\r\n\r\n{{}}".encode()
        last = post.replace(b"Host: x", b"Host: x\r\nConnection: close")
        assert (await it.answer(post * 99 + last)).count(b"HTTP/1.1 200 ") == 100

    on_loop(test)
