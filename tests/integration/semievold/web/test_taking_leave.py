"""A front that stops: who has asked is answered, and who keeps a connection may ask once more."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from semievold.config.fronts import ServerConfig
from semievold.web import server
from semievold.web.server import serve, take_leave

ASKING = b"GET /%s HTTP/1.1\r\nHost: here\r\n\r\n"


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[web.AppRunner, tuple[str, int]]]:
    monkeypatch.setattr(server, "PARTING_S", 0.3)
    places: list[tuple[str, int]] = []

    async def plain(_request: web.Request) -> web.Response:
        return web.Response(text="plain")

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(10):
            await response.write(b"part ")
            await asyncio.sleep(0.1)
        return response

    app = web.Application()
    app.add_routes([web.get("/plain", plain), web.get("/stream", stream)])
    runner = await serve(app, ServerConfig(port=0), "here", lambda host, port: places.append((host, port)))
    try:
        yield runner, places[0]
    finally:
        await runner.cleanup()


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: bytes) -> bytes:
    """The answer's head and body; chunks are not told apart."""
    writer.write(ASKING % path)
    head = await reader.readuntil(b"\r\n\r\n")
    if b"chunked" in head:
        return head + await reader.readuntil(b"0\r\n\r\n")
    return head + await reader.readexactly(len(b"plain"))


async def test_who_asks_as_the_connection_would_be_closed_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (runner, place):
        reader, writer = await asyncio.open_connection(*place)
        assert b"200 OK" in await asked(reader, writer, b"plain")
        (site,) = runner.sites
        connections = site.connections  # type: ignore[attr-defined]
        (kept,) = connections.waiting()
        raw = socket.socket(fileno=socket.dup(writer.get_extra_info("socket").fileno()))
        with raw:
            raw.send(ASKING % b"plain")  # in the kernel; the loop has no turn before the next line
            connections.parting = True
            kept.close_unless_asked()
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        assert b"connection: close" in head.lower()
        writer.close()


async def test_half_a_head_is_not_closed_under_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (runner, place):
        reader, writer = await asyncio.open_connection(*place)
        half = len(ASKING) // 2
        writer.write((ASKING % b"plain")[:half])
        await asyncio.sleep(0.05)
        leaving = asyncio.create_task(take_leave(runner))
        await asyncio.sleep(0.5)  # PARTING_S is over
        writer.write((ASKING % b"plain")[half:])
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        await asyncio.wait_for(leaving, 5.0)
        writer.close()


async def test_a_stream_from_before_the_stop_leaves_its_connection_for_one_more_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(monkeypatch) as (runner, place):
        monkeypatch.setattr(server, "PARTING_S", 5.0)
        reader, writer = await asyncio.open_connection(*place)
        answer = asyncio.create_task(asked(reader, writer, b"stream"))
        await asyncio.sleep(0.2)
        leaving = asyncio.create_task(take_leave(runner))
        assert b"close" not in (await answer).partition(b"\r\n\r\n")[0]
        again = await asked(reader, writer, b"plain")
        assert b"200 OK" in again
        assert b"connection: close" in again.lower()
        await asyncio.wait_for(leaving, 3.0)  # ends with the last connection
        writer.close()


async def test_a_new_connection_is_answered_within_the_parting_and_refused_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(monkeypatch) as (runner, place):
        _, kept = await asyncio.open_connection(*place)
        leaving = asyncio.create_task(take_leave(runner))
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection(*place)
        assert b"connection: close" in (await asked(reader, writer, b"plain")).lower()
        await asyncio.wait_for(leaving, 5.0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*place)
        writer.close()
        kept.close()


async def test_nobody_is_waited_for_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (runner, _):
        monkeypatch.setattr(server, "PARTING_S", 60.0)
        await asyncio.wait_for(take_leave(runner), 1.0)
