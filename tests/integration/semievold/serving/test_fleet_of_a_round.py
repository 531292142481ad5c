"""What a round proposes stays loaded, whatever an operator asks for beside it."""

from pathlib import Path
from typing import Any

import pytest

from semievol.errors import ConfigError
from semievold.api import operations
from semievold.round_states import RoundState
from semievold.rounds.places import RoundPlace
from semievold.serving.alias import Alias
from semievold.serving.fleet import AdapterFleet
from semievold.store.aliases import AliasState
from semievold.store.stores import check_workload, open_stores


class Servers:
    """Holds three versions and remembers what it was told."""

    def __init__(self) -> None:
        self.protected: frozenset[str] = frozenset()
        self.held = {"serving", "previous", "candidate", "old"}

    def protect(self, names: frozenset[str]) -> None:
        self.protected = names

    async def unload(self, name: str) -> None:
        self.held.discard(name)

    async def loaded(self) -> frozenset[str]:
        return frozenset(self.held)


async def test_the_candidate_of_a_step_is_neither_released_nor_given_way(tmp_path: Path) -> None:
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    servers: Any = Servers()
    fleet = AdapterFleet(stores, servers, Alias(AliasState("serving", "previous", 3)), tmp_path)
    fleet.propose("candidate")
    assert servers.protected == {"serving", "previous", "candidate"}
    await fleet.release(0.1)
    assert servers.held == {"serving", "previous", "candidate"}
    fleet.propose(None)
    assert servers.protected == {"serving", "previous"}
    await fleet.release(0.1)
    assert servers.held == {"serving", "previous"}
    stores.database.close()


async def test_a_data_directory_that_was_moved_is_served_from_where_it_is(tmp_path: Path) -> None:
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    number = stores.rounds.plan("warm", "test", 1, None, {}).number
    stores.rounds.transition(number, RoundState.PLANNED, RoundState.SNAPSHOTTED)
    stores.rounds.transition(number, RoundState.SNAPSHOTTED, RoundState.TRAINING)
    registered = {"name": "w-r0000-00000000", "path": "/gone/adapters/w-r0000-00000000", "content_hash": "ff"}
    stores.rounds.trained(number, {}, {**registered, "parent": None})
    servers: Any = Servers()
    fleet = AdapterFleet(stores, servers, Alias(AliasState()), tmp_path / "adapters")
    assert (await fleet.version("w-r0000-00000000")).path == Path("/gone/adapters/w-r0000-00000000")
    (tmp_path / "adapters" / "w-r0000-00000000").mkdir(parents=True)
    assert (await fleet.version("w-r0000-00000000")).path == tmp_path / "adapters" / "w-r0000-00000000"
    [shown] = operations.adapters(stores, RoundPlace(tmp_path / "rounds", tmp_path / "adapters"))
    assert shown["path"] == str(tmp_path / "adapters" / "w-r0000-00000000")
    stores.database.close()


def test_another_workload_does_not_begin_anew_beside_what_was_learned(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    stores = open_stores(url, "old", "assistant")
    check_workload(stores, "new")  # an empty state is anybody's
    stores.rounds.plan("warm", "test", 1, None, {})
    check_workload(stores, "old")
    with pytest.raises(ConfigError, match=r"workload.name: .* holds old and nothing of new"):
        check_workload(stores, "new")
    stores.database.close()
