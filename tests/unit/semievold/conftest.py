"""Worlds for the tests of the controller, and the loop on which their time passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from semievold.store.database import Database
from tests.control_world import ControlWorld
from tests.virtual_time import VirtualTimeLoop


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """In a world nobody waits for a clock."""
    in_a_world = "open_world" in getattr(item, "fixturenames", ())
    return {"loop": VirtualTimeLoop if in_a_world else asyncio.new_event_loop}


@pytest.fixture(scope="session")
def migrated_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file at the newest schema, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "state.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture
async def open_world(tmp_path: Path, migrated_state: Path) -> AsyncIterator[Callable[..., ControlWorld]]:
    """Opens a world with sections of the configuration, and closes it."""
    async with AsyncExitStack() as stack:

        def opened(**settings: Any) -> ControlWorld:
            world = ControlWorld(tmp_path, migrated_state, **settings)
            stack.push_async_callback(world.close)
            return world

        yield opened
