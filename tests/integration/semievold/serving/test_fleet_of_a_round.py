"""What a round proposes stays loaded, whatever an operator asks for beside it."""

from pathlib import Path
from typing import Any

from semievold.serving.alias import Alias
from semievold.serving.fleet import AdapterFleet
from semievold.store.aliases import AliasState
from semievold.store.stores import open_stores


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
    fleet = AdapterFleet(stores, servers, Alias(AliasState("serving", "previous", 3)))
    fleet.propose("candidate")
    assert servers.protected == {"serving", "previous", "candidate"}
    await fleet.release(0.1)
    assert servers.held == {"serving", "previous", "candidate"}
    fleet.propose(None)
    assert servers.protected == {"serving", "previous"}
    await fleet.release(0.1)
    assert servers.held == {"serving", "previous"}
    stores.database.close()
