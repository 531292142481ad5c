"""What the tests of the stores share: every one runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.stream_world import World


@pytest.fixture
def new_world(tmp_path: Path, store_url: str) -> Iterator[Callable[..., World]]:
    """Opens worlds over one state, and closes them."""
    with ExitStack() as stack:

        def opened(**options: object) -> World:
            world = World(tmp_path, url=store_url, **options)  # type: ignore[arg-type]
            stack.callback(world.close)
            return world

        yield opened
