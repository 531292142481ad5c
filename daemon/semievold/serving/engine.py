"""Chooses what answers prompts, opens it, and connects it with what loads adapters into it.

Owns the choice by `generation.kind` alone. What was opened is closed with the caller's stack.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from semievol.protocols import Generator
from semievold.config.daemon import DaemonConfig
from semievold.config.generation import GenerationConfig
from semievold.serving.adapter_servers import AdapterServers, LocalServers
from semievold.serving.reconciler import ReplicaReconciler
from semievold.serving.replicas import ReplicaSet
from semievold.serving.vllm_process import VllmProcess, vllm_command


@dataclass(frozen=True, slots=True)
class Engine:
    """What answers, what holds its adapters, and the tasks that must run meanwhile."""

    generator: Generator
    servers: AdapterServers
    replicas: ReplicaSet | None = None
    """Where requests can be forwarded to; None: the model is in this process."""
    server: VllmProcess | None = None
    """The server that this process launched; None: there is none."""


async def open_engine(
    config: DaemonConfig, stack: AsyncExitStack, *, leads: Callable[[], bool], launches: bool
) -> Engine:
    """The engine of `generation`.

    Args:
        config: the whole configuration.
        stack: closes what is opened.
        leads: whether this process is, just now, the one that loads and unloads adapters in servers; a second one
            that does not know of an open round's candidate would unload it.
        launches: whether this process starts the server of `generation.launch`; the others find it there.

    Raises:
        ConfigError: the model cannot be loaded, or the server cannot be launched.
    """
    if config.generation.kind == "local":
        return await _open_local(config, stack)
    return await _open_replicas(config, stack, leads, launches)


async def _open_local(config: DaemonConfig, stack: AsyncExitStack) -> Engine:
    from semievol.engines.local import LocalGenerator, Serving

    settings = config.generation
    generator = LocalGenerator(
        config.model,
        threads=settings.threads,
        max_batch=settings.max_batch,
        cache_tokens=settings.cache_tokens,
        serving=Serving(settings.labelling_share, settings.prefill_tokens, settings.waiting),
    )
    stack.push_async_callback(generator.close)
    await generator.start()
    return Engine(generator, LocalServers(generator, config.model.dtype))


async def _open_replicas(
    config: DaemonConfig, stack: AsyncExitStack, leads: Callable[[], bool], launches: bool
) -> Engine:
    from semievol.engines.plain.reading import PromptReader
    from semievol.engines.vllm import VllmGenerator
    from semievol.engines.vllm_client import VllmClient

    settings, directory = config.generation, config.artifacts.directory.resolve()
    server = None
    if settings.launch and launches:
        environment = dict(settings.launch_settings.environment)
        if settings.api_key is not None:
            environment["VLLM_API_KEY"] = settings.api_key
        if config.training.share_gpu == "sleep":
            environment["VLLM_SERVER_DEV_MODE"] = "1"
        server = VllmProcess(
            vllm_command(config), environment, directory / "vllm.log", settings.launch_settings.inherit
        )
        stack.push_async_callback(server.close)
        await server.start()
    if settings.launch:
        address = f"http://127.0.0.1:{settings.launch_settings.port}"
        settings = GenerationConfig.model_validate(settings.model_dump() | {"launch": False, "replicas": [address]})
    client = VllmClient()
    reconciler = ReplicaReconciler(
        client,
        dtype=config.model.dtype,
        workload=config.workload.name,
        adapters_directory=directory / "adapters",
        adapters_path=settings.adapters_path,
        max_adapters=settings.max_adapters,
        timeout_s=settings.timeout_s,
        loads=leads,
    )
    rollout = config.rollout
    replicas = ReplicaSet(
        settings, reconciler, min_share=rollout.min_attested_share, timeout_s=rollout.attest_timeout_s
    )
    generator = VllmGenerator(
        client,
        replicas,
        reader=PromptReader(config.model),
        concurrency=settings.concurrency,
        timeout_s=settings.timeout_s,
    )
    stack.push_async_callback(generator.close)
    stack.push_async_callback(replicas.close)
    await replicas.start()
    return Engine(generator, replicas, replicas, server)
