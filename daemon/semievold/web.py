"""What the two HTTP fronts share: bearer tokens, body limits, errors as JSON, and a server as a supervised task.

Invariant: a request reaches a handler only with the right token, unless its path is one of the front's open paths.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pydantic_core
from aiohttp import web

from semievol.durable_files import create_durably
from semievol.errors import ConfigError, SemiEvolError, TransientError
from semievold.config.fronts import ServerConfig

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def error(status: int, code: str, message: str) -> web.Response:
    """An error in OpenAI's shape, which clients of both fronts understand."""
    return web.json_response(error_body(status, code, message), status=status)


def error_body(status: int, code: str, message: str) -> dict[str, dict[str, str | None]]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def ensure_token(configured: str | None, file: Path) -> str:
    """The configured token, or one made once and kept in `file`, readable by its owner alone."""
    if configured is not None:
        return configured
    if file.exists():
        return file.read_text(encoding="ascii").strip()
    file.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_urlsafe(32)
    # Of several processes that start together one wins, and the others read its token.
    if create_durably(file, token + "\n", mode=0o600):
        return token
    return file.read_text(encoding="ascii").strip()


def guarded(token: str, open_paths: frozenset[str]) -> Any:
    """Middleware: the token check, then errors by meaning."""
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in open_paths:
            given = request.headers.get("Authorization", "").encode(errors="replace")
            if not hmac.compare_digest(given, expected):
                return error(401, "unauthorized", "send the header `Authorization: Bearer TOKEN`")
        try:
            return await handler(request)
        except web.HTTPException as refused:
            return error(refused.status, refused.reason.lower().replace(" ", "_"), refused.text or refused.reason)
        except TransientError as failure:
            return error(503, "unavailable", str(failure))
        except SemiEvolError as failure:
            return error(400, "bad_request", str(failure))
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return error(500, "internal_error", "an unexpected error; the daemon's log has it")

    return middleware


async def read_json(request: web.Request) -> Any:
    """The body as JSON.

    Raises:
        web.HTTPBadRequest: it is not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return pydantic_core.from_json(await request.read(), allow_inf_nan=False)
    except ValueError as failure:
        raise web.HTTPBadRequest(text=f"body: not JSON: {failure}") from failure


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
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=shutdown_timeout_s, handler_cancellation=cancel_when_gone
    )
    await runner.setup()
    site = web.TCPSite(runner, config.host, config.port)
    try:
        await site.start()
    except OSError as failure:
        await runner.cleanup()
        raise ConfigError(f"{name}.port: cannot listen on {config.host}:{config.port}: {failure.strerror}") from failure
    host, port = runner.addresses[0][:2]
    bound(host, port)
    log.info("%s listens on %s:%d", name, host, port)
    return runner


async def run_server(
    app: web.Application, config: ServerConfig, name: str, bound: Callable[[str, int], None], stop: asyncio.Event
) -> None:
    """An eternal task around `serve`."""
    runner = await serve(app, config, name, bound)
    try:
        await stop.wait()
    finally:
        await runner.cleanup()
