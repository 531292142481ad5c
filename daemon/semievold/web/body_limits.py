"""What both fronts take as a body: how large, and in which form. Their sections of the configuration say the size."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Sequence
from typing import Any

import pydantic_core
from aiohttp import web

from semievol.examples.json_values import number_fault
from semievold.config.fronts import ServerConfig


def limited_app(config: ServerConfig, middlewares: Sequence[Any]) -> web.Application:
    """A front whose handlers read no body larger than `max_body_bytes`: the client is answered 413."""
    return web.Application(client_max_size=config.max_body_bytes, middlewares=middlewares)


async def read_json(request: web.Request) -> Any:
    """The body as JSON.

    Raises:
        web.HTTPBadRequest: it is not JSON, not UTF-8, nested too deeply, or has a number that not every
            parser takes.
    """
    try:
        body = pydantic_core.from_json((await request.read()).removeprefix(BOM_UTF8), allow_inf_nan=False)
    except ValueError as failure:
        raise web.HTTPBadRequest(text=f"body: not JSON: {failure}") from failure
    if (fault := number_fault(body)) is not None:
        raise web.HTTPBadRequest(text=str(fault))
    return body
