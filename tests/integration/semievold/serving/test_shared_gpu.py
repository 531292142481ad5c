"""One GPU for both, over HTTP: what clients of the gateway see while servers that sleep as vLLM does make way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from semievol.engines.vllm_client import VllmClient
from semievol.errors import TransientError
from semievol.http.server_address import ServerAddress
from semievold.config.fronts import GatewayConfig
from semievold.config.generation import GenerationConfig
from semievold.gateway.proxy import ProxyBackend
from semievold.monitoring.metrics import Metrics
from semievold.rounds.gpu.sharing import SharingLauncher
from semievold.rounds.launch import Trained, TrainingPlace
from semievold.serving.reconciler import ReplicaReconciler
from semievold.serving.replicas import ReplicaSet
from semievold.serving.resting import RestFollower
from semievold.store.aliases import AliasState
from semievold.store.rollout.rests import Rest
from semievold.store.stores import Stores, open_stores
from tests.openai_double import Front, front
from tests.scripted_replicas import adapter, until
from tests.sleeping_server import SleepingServer

V7 = adapter(7)
PLACE = TrainingPlace(Path("/none"), Path("/none"), Path("/none"))


class Training:
    """A Launcher whose training ends when it is told to."""

    def __init__(self) -> None:
        self.begun, self.end = asyncio.Event(), asyncio.Event()

    async def train(self, place: TrainingPlace) -> Trained:
        self.begun.set()
        await self.end.wait()
        return Trained("w-r0008-0a1b2c3d", place.adapters, "hash", {})

    async def retire(self, open_round: int | None) -> None:
        pass

    async def trains(self) -> bool:
        return False


@dataclass
class Process:
    """What one process of the daemon has of the replicas, and its view of who rests."""

    replicas: ReplicaSet
    rests: RestFollower


@asynccontextmanager
async def process(stores: Stores, servers: Sequence[SleepingServer], *, leads: bool) -> AsyncIterator[Process]:
    """A process that follows the state, as the service does, at ten times its speed."""
    config = GenerationConfig.model_validate(
        {"kind": "vllm", "replicas": [server.url for server in servers], "watch_interval_s": 0.05}
    )
    client = VllmClient()
    reconciler = ReplicaReconciler(
        client,
        dtype="float32",
        workload="w",
        adapters_directory=V7.path.parent,
        adapters_path=None,
        max_adapters=config.max_adapters,
        timeout_s=10.0,
        loads=lambda: leads,
    )
    replicas = ReplicaSet(config, reconciler, min_share=0.5, timeout_s=5.0)
    await replicas.start()
    rests = RestFollower(stores.rests, replicas)
    await rests.look()

    async def follow() -> None:
        while True:
            await rests.look()
            await asyncio.sleep(0.05)

    following = asyncio.create_task(follow())
    await replicas.keep(V7, None)
    try:
        yield Process(replicas, rests)
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        await replicas.close()
        await client.close()


@dataclass
class World:
    """Servers, the leader, and a gateway in another process with its clients."""

    servers: list[SleepingServer]
    stores: Stores
    leader: Process
    other: Process
    front: Front
    training: Training

    def sharing(self, *names: str, patience_s: float = 5.0) -> SharingLauncher:
        return SharingLauncher(
            self.training, self.stores, self.leader.replicas, self.leader.rests, names, patience_s, heard_s=0.15
        )

    async def status(self) -> tuple[int, str, str | None]:
        """Of one request: its status, its answer, and when to ask again."""
        async with self.front.ask() as response:
            body = await response.json()
            said = body["choices"][0]["message"]["content"] if response.status == 200 else body["error"]["message"]
            return response.status, said, response.headers.get("Retry-After")

    def counted(self) -> dict[str, float]:
        """Requests that got no answer, by why; of the whole gateway, and of the version that serves, alike."""
        metrics = self.front.metrics
        whole, version = [
            {name: counter.labels("tests", *labels, name)._value.get() for name in ("resting", "failed")}
            for counter, labels in ((metrics.answers, ()), (metrics.versions, (V7.name,)))
        ]
        assert whole == version
        return whole

    async def first_answer(self) -> str:
        """What the first request that is answered again gets."""
        async with asyncio.timeout(10.0):
            while True:
                status, said, _ = await self.status()
                if status == 200:
                    return said
                await asyncio.sleep(0.02)


@asynccontextmanager
async def opened(tmp_path: Path, count: int, *, asleep: bool = False, wait_s: float = 5.0) -> AsyncIterator[World]:
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    async with AsyncExitStack() as stack:
        stack.callback(stores.database.close)
        servers = [SleepingServer(seconds=0.02) for _ in range(count)]
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
        if asleep:  # by a leader that was killed
            client = VllmClient()
            stores.rests.write(Rest(8, tuple(server.name for server in servers), stores.rests.now, 3600.0))
            for server in servers:
                server.listed[V7.name] = "/adapters"
                await client.sleep(ServerAddress.at(server.url, None), 5.0)
            await client.close()
        leader = await stack.enter_async_context(process(stores, servers, leads=True))
        other = await stack.enter_async_context(process(stores, servers, leads=False))
        backend = ProxyBackend(other.replicas, GatewayConfig(port=0, replica_wait_s=wait_s), Metrics("tests"))
        stack.push_async_callback(backend.close)
        before = await stack.enter_async_context(front([], answering=backend))
        before.alias.follow(AliasState(V7.name, None, 2))
        world = World(servers, stores, leader, other, before, Training())
        if not asleep:
            await until(lambda: all(view.adapters and view.state == "up" for view in other.replicas.show()))
        yield world


async def test_no_request_fails_while_one_of_two_replicas_makes_way_for_a_training(tmp_path: Path) -> None:
    async with opened(tmp_path, 2) as world:
        one, other = world.servers
        seen: Counter[tuple[int, str]] = Counter()
        stopped = asyncio.Event()

        async def client() -> None:
            while not stopped.is_set():
                status, said, _ = await world.status()
                seen[status, said] += 1

        clients = [asyncio.create_task(client()) for _ in range(8)]
        await asyncio.sleep(0.3)
        running = asyncio.create_task(world.sharing(one.name).train(PLACE))
        await world.training.begun.wait()
        asked, before = one.answered, other.answered
        assert one.asleep
        await asyncio.sleep(0.5)
        assert one.answered == asked
        assert other.answered > before
        world.training.end.set()
        await running
        await until(lambda: one.answered > asked)  # it is lent again
        stopped.set()
        await asyncio.gather(*clients)
        assert set(seen) == {(200, "7")}, seen
        assert sum(seen.values()) > 100
        assert one.broken == other.broken == []
        assert one.calls == [
            *(f"{what} {V7.name}" for what in ("load", "unload")),
            "sleep",
            "wake up",
            f"load {V7.name}",
        ]
        assert other.calls == [f"load {V7.name}"]


async def test_with_one_replica_clients_are_told_when_to_ask_again_and_get_the_adapter_after_it(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as world:
        (server,) = world.servers
        assert (await world.status())[:2] == (200, "7")
        running = asyncio.create_task(world.sharing().train(PLACE))
        await world.training.begun.wait()
        began = asyncio.get_running_loop().time()
        assert await world.status() == (
            503,
            "the engine rests while a new version is trained on its GPU; try again in 30 s",
            "30",
        )
        assert asyncio.get_running_loop().time() - began < 1.0  # nobody waits for a replica that will not come
        assert world.counted() == {"resting": 1, "failed": 0}
        world.training.end.set()
        await running
        assert await world.first_answer() == "7"  # the adapter's answer, from the first one on: the base model's is 99
        assert server.calls[-2:] == ["wake up", f"load {V7.name}"]
        assert server.broken == []


async def test_between_the_waking_and_the_proofs_clients_are_told_so_and_it_counts_as_rest(tmp_path: Path) -> None:
    async with opened(tmp_path, 1, wait_s=0.2) as world:
        world.training.end.set()
        await world.leader.replicas.unload(V7.name)
        await world.leader.replicas.keep(None, None)  # it takes its time to load the adapter again
        await world.leader.replicas.unload(V7.name)
        await world.sharing().train(PLACE)
        await until(lambda: world.other.replicas.resting is None)
        assert await world.status() == (503, "the engine has woken, and is proved anew; try again in 1 s", "1")
        assert world.counted() == {"resting": 1, "failed": 0}
        assert world.other.replicas.defect is None  # so that the gateway stays ready
        await world.leader.replicas.keep(V7, None)
        assert await world.first_answer() == "7"


async def test_the_next_leader_wakes_what_a_killed_one_left_asleep(tmp_path: Path) -> None:
    async with opened(tmp_path, 1, asleep=True) as world:
        (server,) = world.servers
        assert (await world.status())[0] == 503
        await world.sharing().look()
        assert world.stores.rests.get() is None
        assert await world.first_answer() == "7"
        assert server.calls == ["sleep", "wake up", f"unload {V7.name}", f"load {V7.name}"]


async def test_what_is_in_the_queue_of_a_server_is_answered_before_it_sleeps(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as world:
        (server,) = world.servers
        server.places = 1
        asked = [asyncio.create_task(world.status()) for _ in range(20)]
        await until(lambda: server.queued > 10)
        running = asyncio.create_task(world.sharing().train(PLACE))
        await world.training.begun.wait()
        assert server.asleep
        assert {(await each)[:2] for each in asked} == {(200, "7")}
        world.training.end.set()
        await running


async def test_a_server_that_only_waits_for_its_sleep_is_waited_for(tmp_path: Path) -> None:
    """It says that it sleeps from the moment that it was told to, while what runs has its memory still."""
    async with opened(tmp_path, 1) as world:
        (server,) = world.servers
        server.seconds = 0.7
        slow = asyncio.create_task(world.status())
        await until(lambda: server.running == 1)
        client, address = VllmClient(), ServerAddress.at(server.url, None)
        with pytest.raises(TransientError):
            await client.sleep(address, 0.1)  # of a leader that died meanwhile, say
        assert await client.is_sleeping(address)
        await client.close()
        running = asyncio.create_task(world.sharing().train(PLACE))
        await world.training.begun.wait()
        assert (server.running, server.asleep) == (0, True)
        assert (await slow)[:2] == (200, "7")
        world.training.end.set()
        await running
        assert server.broken == []


async def test_what_a_waking_cuts_off_is_answered_elsewhere(tmp_path: Path) -> None:
    """A request came to the server in its sleep, by somebody who had not heard of it."""
    async with opened(tmp_path, 2) as world:
        one, other = world.servers
        client = VllmClient()
        await client.sleep(ServerAddress.at(one.url, None), 5.0)
        other.places = 0  # all ask the one that sleeps, as the less busy one
        asked = [asyncio.create_task(world.status()) for _ in range(2)]
        await until(lambda: one.queued == 1)
        other.places = 1000
        await client.wake_up(ServerAddress.at(one.url, None))
        await client.close()
        assert [(await each)[:2] for each in asked] == [(200, "7"), (200, "7")]
        assert other.answered == 2


@pytest.mark.parametrize("counts", [True, False])
async def test_a_sleep_that_is_given_up_does_not_come_after_the_waking(tmp_path: Path, counts: bool) -> None:
    """A request runs for longer than is waited: the round tries again later, and nobody is answered without memory.

    Where the server does not say that it works, it is told to sleep, and what it works on is cut off by the waking: who
    asked waits for the end of the waking, or is told to ask again.
    """
    async with opened(tmp_path, 1) as world:
        (server,) = world.servers
        server.seconds, server.counts = 2.0, counts
        slow = asyncio.create_task(world.status())
        await until(lambda: server.running == 1)
        with pytest.raises(TransientError):
            await world.sharing(patience_s=0.2).train(PLACE)
        server.seconds = 0.0
        status, said, again_s = await slow
        # It is asked again: answered by the server once that has proved its adapter, or told when to come back.
        assert (status, said) == (200, "7") or (not counts and status == 503 and again_s is not None)
        assert await world.first_answer() == "7"
        assert (server.asleep, server.broken) == (False, [])
        assert not world.training.begun.is_set()
