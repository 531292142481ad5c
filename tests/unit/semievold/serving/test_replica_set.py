"""What the replica set decides, with servers that answer by script; what vLLM does is in tests/integration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from semievol.errors import AdapterError, DataError
from semievol.types import Completion, GenerationRequest, Message
from semievold.config.generation import GenerationConfig
from semievold.serving.adapter_servers import HeldAdapter
from semievold.serving.attestation import Answer, FingerprintEntry
from semievold.serving.reconciler import ReplicaReconciler
from semievold.serving.replicas import ReplicaSet

SERVERS = ("a:1", "b:1")
DIRECTORY = Path("/adapters")


def adapter(number: int) -> HeldAdapter:
    name = f"w-r{number:04}-0a1b2c3d"
    entry = FingerprintEntry((Message("user", "?"),), Answer((number,), (-0.5,)), Answer((99,), (-0.5,)))
    return HeldAdapter(name, DIRECTORY / name, (entry,))


class ScriptedServers:
    """A VllmClient: each server holds names, and answers with the token that the adapter's fingerprint records."""

    def __init__(self) -> None:
        self.held: dict[str, set[str]] = {name: {"base"} for name in SERVERS}
        self.refuses_prompts: set[str] = set()
        self.cannot_load: set[str] = set()

    async def check_health(self, server: Any) -> None:
        pass

    async def models(self, server: Any) -> frozenset[str]:
        return frozenset(self.held[server.name])

    async def load(self, server: Any, name: str, path: str) -> None:
        if server.name in self.cannot_load:
            raise AdapterError(f"{server.name}: cannot load {name}")
        self.held[server.name].add(name)

    async def unload(self, server: Any, name: str) -> None:
        self.held[server.name].discard(name)

    async def complete(self, server: Any, request: GenerationRequest, timeout_s: float) -> list[Completion]:
        if server.name in self.refuses_prompts and request.max_tokens == 1 and request.adapter is not None:
            raise DataError(f"{server.name}: the prompt is too long")
        token = 99 if request.adapter is None else int(request.adapter.split("-")[1][1:])
        return [Completion("", (token,), (-0.5,), "stop", request.adapter, 1)]


@asynccontextmanager
async def replica_set(servers: ScriptedServers, *, loads: bool = True, **settings: Any) -> AsyncIterator[ReplicaSet]:
    given = settings or {"replicas": [f"http://{name}" for name in SERVERS]}
    config = GenerationConfig.model_validate(
        {"kind": "vllm", "watch_interval_s": 0.01, "dns_interval_s": 0.01, **given}
    )
    reconciler = ReplicaReconciler(
        servers,  # type: ignore[arg-type]
        dtype="float32",
        workload="w",
        adapters_directory=DIRECTORY,
        adapters_path=None,
        max_adapters=config.max_adapters,
        timeout_s=1.0,
        loads=lambda: loads,
    )
    replicas = ReplicaSet(config, reconciler, min_share=0.5, timeout_s=2.0)
    await replicas.start()
    try:
        yield replicas
    finally:
        await replicas.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110 - the set tells nobody
            await asyncio.sleep(0.01)


async def test_a_follower_does_not_wait_for_a_replica_that_the_leader_could_not_load() -> None:
    servers = ScriptedServers()
    servers.held["a:1"].add(adapter(1).name)
    async with replica_set(servers, loads=False) as follower:
        await follower.keep(None, None)
        await follower.load(adapter(1))
        async with follower.lend(adapter(1).name) as upstream:
            assert upstream.name == "a:1"


async def test_what_the_alias_names_is_not_unloaded_although_its_directory_could_not_be_verified() -> None:
    servers = ScriptedServers()
    for held in servers.held.values():
        held |= {adapter(1).name, adapter(2).name, "other-r0001-0a1b2c3d"}
    async with replica_set(servers) as leader:
        leader.protect(frozenset({adapter(1).name}))
        await leader.keep(None, None)
        await until(lambda: all(adapter(2).name not in held for held in servers.held.values()))
        assert all({adapter(1).name, "other-r0001-0a1b2c3d"} < held for held in servers.held.values())


async def test_a_candidate_does_not_push_out_what_the_alias_names() -> None:
    async with replica_set(ScriptedServers()) as leader:
        await leader.keep(adapter(1), adapter(2))
        await leader.load(adapter(3))
        leader.protect(frozenset({adapter(3).name, adapter(1).name}))  # promoted, and `keep` has not been told yet
        with pytest.raises(AdapterError, match="no room"):
            await leader.load(adapter(4))
        async with leader.lend(adapter(3).name):
            pass


async def test_a_replica_that_refuses_the_fingerprints_prompts_is_quarantined_and_the_others_serve() -> None:
    servers = ScriptedServers()
    servers.refuses_prompts.add("b:1")
    async with replica_set(servers) as leader:
        await leader.keep(None, None)
        await leader.load(adapter(1))
        views = {view.name: view for view in leader.show()}
        assert views["b:1"].state == "quarantined"
        assert "the prompt is too long" in views["b:1"].reason
        async with leader.lend(adapter(1).name) as upstream:
            assert upstream.name == "a:1"


async def test_a_replica_that_cannot_load_is_quarantined_and_named() -> None:
    servers = ScriptedServers()
    servers.cannot_load.add("b:1")
    async with replica_set(servers) as leader:
        await leader.keep(None, None)
        await leader.load(adapter(1))
        views = {view.name: view for view in leader.show()}
        assert (views["a:1"].state, views["b:1"].state) == ("up", "quarantined")
        assert "b:1: cannot load" in views["b:1"].reason


async def test_a_name_that_stands_for_nobody_yet_does_not_end_the_watch() -> None:
    stop = asyncio.Event()
    async with replica_set(ScriptedServers(), dns="http://nobody.invalid:8000") as replicas:
        running = asyncio.create_task(replicas.run(stop))
        await asyncio.sleep(0.05)
        assert not running.done()
        stop.set()
        await running
