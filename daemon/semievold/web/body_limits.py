"""What both fronts take as a body: how large, how soon, and in which form. Their sections of the configuration say it.

Owns the reading and unpacking of bodies. Invariant: nothing is read, and nothing unpacked, before a handler wants it,
and never more than `max_body_bytes` of either.
"""

from __future__ import annotations

import asyncio
import zlib
from codecs import BOM_UTF8
from collections.abc import Sequence
from typing import Any

import pydantic_core
from aiohttp import hdrs, web

from semievol.examples.json_values import number_fault
from semievold.config.fronts import ServerConfig
from semievold.web.connection import connection_of

CONFIG = web.AppKey("config", ServerConfig)
BODY_BYTES = web.RequestKey("body_bytes", int)
"""Of a body that was read as JSON, unpacked: what a header says of it may be missing, or of the packed one."""

_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def limited_app(config: ServerConfig, middlewares: Sequence[Any]) -> web.Application:
    """A front whose handlers read no body larger than `max_body_bytes`: the client is answered 413."""
    app = web.Application(client_max_size=config.max_body_bytes, middlewares=middlewares)
    app[CONFIG] = config
    return app


async def read_body(request: web.Request) -> bytes:
    """The body, unpacked.

    Raises:
        web.HTTPException: it is too large, packed or not (413), does not come within `idle_timeout_s` (408), or is
            packed in a way that is not known (415) or wrongly (400).
    """
    config = request.app[CONFIG]
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower()
    if encoding not in ("identity", *_WINDOWS):
        raise web.HTTPUnsupportedMediaType(text="Content-Encoding: send gzip, deflate or identity")
    if (request.content_length or 0) > config.max_body_bytes:
        raise _too_large(config)
    try:
        if request.content.is_eof():  # it came with its head
            packed = await request.read()
        else:
            async with asyncio.timeout(config.idle_timeout_s):
                if (connection := connection_of(request)) is not None:
                    await connection.invite(request)
                packed = await request.read()
    except TimeoutError as late:
        raise web.HTTPRequestTimeout(text="body: it did not come within idle_timeout_s of this front") from late
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(config) from None
    if encoding == "identity" or not packed:
        return packed
    return _unpacked(packed, encoding, config)


async def read_json(request: web.Request) -> Any:
    """The body as JSON.

    Raises:
        web.HTTPBadRequest: it is not JSON, not UTF-8, nested too deeply, or has a number that not every
            parser takes.
        web.HTTPException: see `read_body`.
    """
    body = await read_body(request)
    request[BODY_BYTES] = len(body)
    try:
        value = pydantic_core.from_json(body.removeprefix(BOM_UTF8), allow_inf_nan=False)
    except ValueError as failure:
        raise web.HTTPBadRequest(text=f"body: not JSON: {failure}") from failure
    if (fault := number_fault(value)) is not None:
        raise web.HTTPBadRequest(text=str(fault))
    return value


def _unpacked(packed: bytes, encoding: str, config: ServerConfig) -> bytes:
    window = _WINDOWS[encoding]
    if encoding == "deflate" and packed[0] & 0x0F != zlib.DEFLATED:
        window = -zlib.MAX_WBITS  # without zlib's frame, as some clients mean it
    unpacker = zlib.decompressobj(window)
    try:
        body = unpacker.decompress(packed, config.max_body_bytes + 1)
    except zlib.error as failure:
        raise web.HTTPBadRequest(text=f"body: not {encoding}, as Content-Encoding says") from failure
    if len(body) > config.max_body_bytes:
        raise _too_large(config)
    if not unpacker.eof or unpacker.unused_data:
        raise web.HTTPBadRequest(text=f"body: it is no whole {encoding} body, or goes on after its end")
    return body


def _too_large(config: ServerConfig) -> web.HTTPRequestEntityTooLarge:
    text = f"body: more than {config.max_body_bytes} bytes (max_body_bytes of this front), unpacked"
    return web.HTTPRequestEntityTooLarge(config.max_body_bytes, text=text)
