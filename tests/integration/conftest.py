"""What the tests of the stores share: every one runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.stream_world import World


@pytest.fixture
async def new_world(tmp_path: Path, store_url: str) -> AsyncIterator[Callable[..., World]]:
    """Opens worlds over one state, and closes them."""
    async with AsyncExitStack() as stack:

        def opened(**options: object) -> World:
            world = World(tmp_path, url=store_url, **options)  # type: ignore[arg-type]
            stack.push_async_callback(world.close)
            return world

        yield opened
