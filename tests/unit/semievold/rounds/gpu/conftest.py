"""A state, and a leader whose replicas make way for the training of its open round."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from semievold.store.database import Database
from semievold.store.stores import Stores, stores_over
from tests.scripted_replicas import ScriptedServers
from tests.sharing_world import World, opened


@pytest.fixture
def stores(tmp_path: Path, migrated_state: Path) -> Iterator[Stores]:
    (tmp_path / "state.db").write_bytes(migrated_state.read_bytes())
    database = Database(f"sqlite:///{tmp_path / 'state.db'}", "w")
    yield stores_over(database, "w", "w")
    database.close()


@pytest.fixture
async def world(stores: Stores) -> AsyncIterator[World]:
    async with opened(stores, ScriptedServers()) as it:
        it.open_round()
        yield it
