"""What the tests of the stores share (every one runs on SQLite and on PostgreSQL), and the loop of the gateway's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop

from tests.stream_world import World


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The gateway is tested on the loop that the daemon runs on: uvloop's transports close in another order."""
    served = item.path.parts[-2:] == ("gateway", "test_proxy.py")
    return {"loop": uvloop.new_event_loop if served else asyncio.new_event_loop}


@pytest.fixture
async def new_world(tmp_path: Path, store_url: str) -> AsyncIterator[Callable[..., World]]:
    """Opens worlds over one state, and closes them."""
    async with AsyncExitStack() as stack:

        def opened(**options: object) -> World:
            world = World(tmp_path, url=store_url, **options)  # type: ignore[arg-type]
            stack.push_async_callback(world.close)
            return world

        yield opened
