"""A replica set over real vLLM servers, with adapters whose fingerprints the local generator recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from semievol import adapter_directory
from semievol.config.method import ModelConfig
from semievol.engines.local import LocalGenerator
from semievol.engines.vllm import VllmGenerator
from semievol.engines.vllm_client import VllmClient
from semievol.types import GenerationRequest, Message
from semievold.config.generation import GenerationConfig
from semievold.serving.adapter_servers import HeldAdapter
from semievold.serving.attestation import FingerprintEntry
from semievold.serving.reconciler import ReplicaReconciler
from semievold.serving.replica import ReplicaView
from semievold.serving.replicas import ReplicaSet
from tests.servers.vllm import VllmServer
from tests.tiny_adapter import make_tiny_adapter

PROMPTS = tuple((Message("user", text),) for text in ("red 1", "green 2", "blue 3", "black 4"))
TOKENS = 8


async def held(model: Path, adapters: Path, seed: int, *, rank: int = 4, workload: str = "tiny") -> HeldAdapter:
    """An adapter with random weights, and what they and the base model answer in this process; its manifest has it."""
    path = await asyncio.to_thread(make_tiny_adapter, model, adapters, seed, rank=rank, prefix=f"{workload}-r{seed:04}")
    local = LocalGenerator(ModelConfig(name=str(model), dtype="float32", device="cpu"), threads=1)
    try:
        await local.load_adapter(path.name, path)
        records = [await _record(local, prompt, path.name) for prompt in PROMPTS]
    finally:
        await local.close()
    manifest = replace(adapter_directory.verify(path), fingerprint=tuple(records))
    (path / adapter_directory.MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    return HeldAdapter(path.name, path, tuple(FingerprintEntry.from_record(record) for record in records))


async def _record(local: LocalGenerator, prompt: tuple[Message, ...], name: str) -> dict[str, Any]:
    (adapted,), (base,) = await local.generate(
        [GenerationRequest(prompt, adapter, max_tokens=TOKENS) for adapter in (name, None)]
    )
    recorded = [{"token_ids": each.token_ids, "logprobs": each.logprobs} for each in (adapted, base)]
    return {"messages": [asdict(message) for message in prompt], **recorded[0], "base": recorded[1]}


@dataclass(frozen=True, slots=True)
class World:
    """A replica set with its generator."""

    replicas: ReplicaSet
    generator: VllmGenerator

    def view(self, server: VllmServer) -> ReplicaView:
        return next(view for view in self.replicas.show() if view.name.endswith(f":{server.port}"))

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Poll; what the replicas say is in the failure."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self.replicas.looked()
        except TimeoutError:
            raise AssertionError(f"not within {timeout_s:.0f} s: {self.replicas.show()}") from None


@asynccontextmanager
async def replica_world(
    servers: Sequence[VllmServer],
    adapters: Path,
    *,
    loads: bool = True,
    workload: str = "tiny",
    timeout_s: float = 60.0,
    patience_s: float = 60.0,
    **settings: Any,
) -> AsyncIterator[World]:
    """The set of `servers` for versions in `adapters`; `settings` are those of `generation`."""
    config = GenerationConfig.model_validate(
        {"kind": "vllm", "replicas": [server.url for server in servers], "watch_interval_s": 0.2, **settings}
    )
    client = VllmClient()
    reconciler = ReplicaReconciler(
        client,
        dtype="float32",
        workload=workload,
        adapters_directory=adapters,
        adapters_path=config.adapters_path,
        max_adapters=config.max_adapters,
        timeout_s=60.0,
        loads=lambda: loads,
    )
    replicas = ReplicaSet(config, reconciler, min_share=0.5, timeout_s=timeout_s)
    generator = VllmGenerator(client, replicas, timeout_s=patience_s)
    await replicas.start()
    try:
        yield World(replicas, generator)
    finally:
        await replicas.close()
        await generator.close()
