"""A front as a supervised task: it listens, says where, and ends with the stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiohttp import web

from semievol.errors import ConfigError
from semievold.config.fronts import ServerConfig

log = logging.getLogger(__name__)


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
