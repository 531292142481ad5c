"""A leader whose replicas make way for trainings, in front of scripted servers, and another process that lends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from semievold.round_states import MAIN_PATH, RoundState
from semievold.rounds.gpu.sharing import SharingLauncher
from semievold.rounds.launch import Trained, TrainingPlace
from semievold.serving.replicas import ReplicaSet
from semievold.serving.resting import RestFollower
from semievold.store.stores import Stores
from tests.control_world import Brake, Hook, nothing
from tests.scripted_replicas import ScriptedServers, adapter, replica_set, until

V1 = adapter(1)


class Trainer:
    """A Launcher. `elsewhere`: what it trains goes on when nobody waits for it any more."""

    def __init__(self) -> None:
        self.during: Hook = nothing
        self.elsewhere = False
        self.runs = False
        self.retired: list[int | None] = []

    async def train(self, place: TrainingPlace) -> Trained:
        self.runs = self.elsewhere
        await self.during()
        self.runs = False
        return Trained("w-r0000-0a1b2c3d", place.adapters, "hash", {})

    async def retire(self, open_round: int | None) -> None:
        self.retired.append(open_round)
        self.runs = False

    async def trains(self) -> bool:
        return self.runs


class World:
    """The leader's replica set, in front of scripted servers, and one of another process that follows the state."""

    def __init__(
        self, stores: Stores, servers: ScriptedServers, leader: ReplicaSet, other: ReplicaSet, *, all_share: bool
    ) -> None:
        self.stores = stores
        self.servers = servers
        self.leader = leader
        self.other = other
        self.trainer = Trainer()
        self.rests = RestFollower(stores.rests, leader, all_share=all_share)
        self.other_rests = RestFollower(stores.rests, other, all_share=all_share)

    def sharing(
        self, stores: Stores | None = None, names: tuple[str, ...] | None = (), patience_s: float = 5.0
    ) -> SharingLauncher:
        return SharingLauncher(
            self.trainer,
            stores or self.stores,
            self.leader,
            self.rests,
            names,
            patience_s,
            heard_s=0.03,
            silence_s=0.05,
        )

    def is_lent(self, replicas: ReplicaSet) -> set[str]:
        """Which servers answer with the version that serves."""
        return {view.name for view in replicas.show() if view.state == "up" and V1.name in view.adapters}

    async def train(self, sharing: SharingLauncher | None = None) -> Trained:
        return await (sharing or self.sharing()).train(TrainingPlace(Path("/none"), Path("/none"), Path("/none")))

    def open_round(self) -> None:
        """A round that trains."""
        self.stores.rounds.plan("warm", "test", 1, None, {})
        for before, after in pairwise(MAIN_PATH):
            self.stores.rounds.transition(0, before, after)
            if after is RoundState.TRAINING:
                return


@asynccontextmanager
async def opened(stores: Stores, servers: ScriptedServers, **settings: Any) -> AsyncIterator[World]:
    """A world in front of `servers`; `settings` are those of `generation`, where they are found by a name, say."""
    async with replica_set(servers, **settings) as leader, replica_set(servers, loads=False, **settings) as other:
        it = World(stores, servers, leader, other, all_share="dns" in settings)
        await it.rests.look()
        await it.other_rests.look()
        await leader.keep(V1, None)
        await other.keep(V1, None)

        async def follow() -> None:
            while True:
                await it.other_rests.look()
                await asyncio.sleep(0.01)

        following = asyncio.create_task(follow())
        try:
            if stores.rests.get() is None:
                await until(lambda: it.is_lent(leader) == it.is_lent(other) == set(servers.held))
            yield it
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following


async def begun(world: World, sharing: SharingLauncher | None = None) -> tuple[asyncio.Task[Trained], Brake]:
    """A training under way."""
    brake = world.trainer.during = Brake()
    training = asyncio.create_task(world.train(sharing))
    reached = asyncio.create_task(brake.reached.wait())
    await asyncio.wait({training, reached}, return_when=asyncio.FIRST_COMPLETED)
    assert brake.reached.is_set(), training.result()
    return training, brake


class ServerNamed:
    """As much of an address as a scripted server looks at."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.base_model = "base"
