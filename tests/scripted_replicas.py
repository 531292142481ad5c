"""A replica set over servers that answer by script, so that what it decides is seen in milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from semievol.errors import AdapterError, DataError
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
        token = 99 if request.adapter is None else int(request.adapter.split("-")[-2][1:])
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
