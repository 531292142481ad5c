"""One workload's fleet over real vLLM servers, as its daemon has it: a state, an alias, adapters of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from semievol import adapter_directory
from semievol.types import GenerationRequest, Message
from semievold.serving.alias import Alias
from semievold.serving.fleet import AdapterFleet
from semievold.serving.storage.object_storage import AdapterStorage
from semievold.store.stores import Stores, open_stores
from semievold.store.tables import adapters as registry
from tests.replica_world import World, replica_world
from tests.servers.vllm import VllmServer


@dataclass(frozen=True, slots=True)
class WorkloadFleet:
    """What a leading daemon of one workload has of the servers."""

    name: str
    directory: Path
    """Of its adapters."""
    stores: Stores
    world: World
    alias: Alias
    fleet: AdapterFleet

    def register(self, path: Path) -> str:
        """A published directory as a version that a round trained; its name."""
        manifest = adapter_directory.verify(path)
        now = self.stores.database.now()
        row = {"path": str(self.directory / path.name), "content_hash": manifest.content_hash, "parent": None}
        times = {"created_at": now, "updated_at": now}
        with self.stores.database.write() as connection:
            connection.execute(
                insert(registry).values(
                    workload=self.name,
                    name=path.name,
                    round=manifest.round_number,
                    state="candidate",
                    **row,
                    **times,
                )
            )
        return path.name

    async def serve(self, name: str) -> None:
        """Load a registered version, prove it on every server and let the alias name it."""
        await self.fleet.load(name)
        proof = await self.fleet.attest(name)
        assert proof.passed, proof
        await self.move(name)

    async def move(self, name: str | None) -> None:
        """What an operator's promotion or rollback does."""
        self.stores.alias.move(name)
        await self.fleet.follow()

    async def answer(self, question: str) -> tuple[str | None, tuple[int, ...]]:
        """Of a client of this workload: the version that answered, and its tokens."""
        async with self.alias.bind() as adapter:
            request = GenerationRequest((Message("user", question),), adapter, max_tokens=8)
            ((completion,),) = await self.world.generator.generate([request])
        return completion.adapter, completion.token_ids


@asynccontextmanager
async def workload_fleet(
    name: str,
    servers: Sequence[VllmServer],
    directory: Path,
    *,
    storage: AdapterStorage | None = None,
    **settings: Any,
) -> AsyncIterator[WorkloadFleet]:
    """A daemon's fleet, from its start to its stop; `settings` are those of `generation`.

    Args:
        name: of the workload.
        directory: of the state, which several workloads may share, and of a directory of each one's own.
        storage: where its adapters are published.
    """
    adapters = directory / name / "adapters"
    adapters.mkdir(parents=True, exist_ok=True)
    stores = open_stores(f"sqlite:///{directory / 'state.db'}", name, name)
    try:
        async with replica_world(servers, adapters, workload=name, **settings) as world:
            alias = Alias(stores.alias.get())
            fleet = AdapterFleet(stores, world.replicas, alias, adapters, storage)
            await fleet.reconcile()
            yield WorkloadFleet(name, adapters, stores, world, alias, fleet)
    finally:
        stores.database.close()
