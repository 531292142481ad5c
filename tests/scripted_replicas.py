"""A replica set over servers that answer by script, so that what it decides is seen in milliseconds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from semievol.errors import AdapterError, ConfigError, DataError, TransientError
from semievol.http.errors import ServerDownError
from semievol.types import Completion, GenerationRequest, Message
from semievold.config.generation import GenerationConfig
from semievold.serving.adapter_servers import HeldAdapter
from semievold.serving.attestation import Answer, FingerprintEntry
from semievold.serving.reconciler import ReplicaReconciler
from semievold.serving.replicas import ReplicaSet

SERVERS = ("a:1", "b:1")
DIRECTORY = Path("/adapters")


def adapter(number: int, workload: str = "w") -> HeldAdapter:
    name = f"{workload}-r{number:04}-0a1b2c3d"
    entry = FingerprintEntry((Message("user", "?"),), Answer((number,), (-0.5,)), Answer((99,), (-0.5,)))
    return HeldAdapter(name, DIRECTORY / name, (entry,))


class ScriptedServers:
    """A VllmClient: each server holds names, and answers with the token that the adapter's fingerprint records."""

    def __init__(self) -> None:
        self.held: dict[str, set[str]] = {name: {"base"} for name in SERVERS}
        self.refuses_prompts: set[str] = set()
        self.cannot_load: set[str] = set()
        self.lost: set[tuple[str, str]] = set()
        """Servers and what they list, though their engine has it no more: the base model answers under that name."""
        self.busy: dict[str, int] = {}
        """What each works on for others."""
        self.silent: set[str] = set()
        self.asleep: set[str] = set()
        self.cannot_sleep: set[str] = set()
        self.cannot_wake: set[str] = set()
        self.before_answer: dict[str, Callable[[], Awaitable[None]]] = {}
        """What the answers of a server wait for."""
        self.asked_of_sleep: Counter[str] = Counter()
        self.calls: list[tuple[str, str]] = []
        """What changed a server, in order: what was done, and to whom."""

    def start_anew(self, name: str) -> None:
        """As its process does when it comes up: awake, with no adapter."""
        self.held[name] = {"base"}
        self.lost = {(server, adapter) for server, adapter in self.lost if server != name}
        self.asleep.discard(name)
        self.silent.discard(name)

    async def check_health(self, server: Any) -> None:
        if server.name in self.silent:
            raise ServerDownError(f"{server.name}: nobody answers")

    async def models(self, server: Any) -> frozenset[str]:
        await self.check_health(server)
        return frozenset(self.held[server.name])

    async def load(self, server: Any, name: str, path: str) -> None:
        if server.name in self.cannot_load:
            raise AdapterError(f"{server.name}: cannot load {name}")
        self.held[server.name].add(name)
        self.calls.append((f"load {name}", server.name))

    async def unload(self, server: Any, name: str) -> None:
        self.held[server.name].discard(name)
        self.lost.discard((server.name, name))
        self.calls.append((f"unload {name}", server.name))

    async def unfinished(self, server: Any) -> int:
        return self.busy.get(server.name, 0)

    async def is_sleeping(self, server: Any) -> bool:
        await self.check_health(server)
        self.asked_of_sleep[server.name] += 1
        if server.name in self.cannot_sleep:
            raise ConfigError(f"{server.name}: /is_sleeping is not there")
        return server.name in self.asleep

    async def sleep(self, server: Any, timeout_s: float) -> None:
        if server.name in self.asleep:
            return
        self.asleep.add(server.name)
        self.lost |= {(server.name, name) for name in self.held[server.name]}
        self.calls.append(("sleep", server.name))

    async def wake_up(self, server: Any) -> None:
        if server.name in self.cannot_wake:
            raise TransientError(f"{server.name}: no memory")
        self.asleep.discard(server.name)
        self.calls.append(("wake up", server.name))

    async def complete(self, server: Any, request: GenerationRequest, timeout_s: float) -> list[Completion]:
        if server.name in self.refuses_prompts and request.max_tokens == 1 and request.adapter is not None:
            raise DataError(f"{server.name}: the prompt is too long")
        assert server.name not in self.asleep, f"{server.name} sleeps, and is asked"
        lost = (server.name, request.adapter) in self.lost
        token = 99 if request.adapter is None or lost else int(request.adapter.split("-")[-2][1:])
        if (waits := self.before_answer.get(server.name)) is not None:
            await waits()
        return [Completion("", (token,), (-0.5,), "stop", request.adapter, 1)]


@asynccontextmanager
async def replica_set(
    servers: ScriptedServers, *, loads: bool = True, workload: str = "w", **settings: Any
) -> AsyncIterator[ReplicaSet]:
    given = settings or {"replicas": [f"http://{name}" for name in SERVERS]}
    config = GenerationConfig.model_validate(
        {"kind": "vllm", "watch_interval_s": 0.01, "dns_interval_s": 0.01, **given}
    )
    reconciler = ReplicaReconciler(
        servers,  # type: ignore[arg-type]
        dtype="float32",
        workload=workload,
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
