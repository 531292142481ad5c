"""What answers in a run on files, as the configuration says; an engine is added here and in `generation.kind`.

Owns the choice by `generation` and `models`, and the ends of what it opened: adapters that were loaded into servers are
unloaded again. The service chooses for itself (its serving.engine). Heavy imports happen inside the functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from semievol.config.generation import GenerationConfig
from semievol.config.method import Configuration, MethodConfig, ModelConfig
from semievol.errors import ConfigError, TransientError

if TYPE_CHECKING:
    from semievol.engines.vllm import FixedServers
    from semievol.protocols import Generator


@asynccontextmanager
async def open_generator(config: MethodConfig, *, labels: bool = True) -> AsyncIterator[Generator]:
    """The engine of `generation`; with `labels` also what labelling.configurations name, their models and adapters.

    Raises:
        ConfigError: an engine cannot be opened, or an adapter of a configuration is nowhere.
        AdapterError: an adapter of a configuration cannot be loaded.
    """
    async with AsyncExitStack() as stack:
        main = _open(config, config.generation, "generation", stack)
        configurations = config.labelling.configurations if labels else ()
        others = {
            name: _open(config, config.models[name], f"models.{name}", stack)
            for name in sorted({each.model for each in configurations if each.model is not None})
        }
        names: dict[tuple[str | None, str], str] = {}
        for place, each in enumerate(configurations):
            if each.adapter not in (None, "base"):
                engine = main if each.model is None else others[each.model]
                names[each.model, str(each.adapter)] = await _load_named(config, engine, each, place)
        if others or names:
            from semievol.engines.routed import RoutedGenerator

            yield RoutedGenerator(main, others, names)
        else:
            yield main


async def _load_named(config: MethodConfig, engine: Generator, configuration: Configuration, place: int) -> str:
    """Load the adapter that a configuration names; returns its name in the engine."""
    adapter = str(configuration.adapter)
    path = await asyncio.to_thread(Path(adapter).resolve)
    if await asyncio.to_thread(path.is_dir):
        await engine.load_adapter(path.name, path)
        return path.name
    settings = config.generation if configuration.model is None else config.models[configuration.model]
    if settings.kind == "local":
        raise ConfigError(f"labelling.configurations[{place}].adapter: {adapter} is no adapter directory; give one")
    return adapter


async def load_adapter(generator: Generator, adapter: Path | None) -> str | None:
    """Load the adapter directory that a command was given, if any; returns its name."""
    if adapter is None:
        return None
    await generator.load_adapter(adapter.name, adapter)
    return adapter.name


def _open(config: MethodConfig, settings: GenerationConfig, setting: str, stack: AsyncExitStack) -> Generator:
    if settings.kind == "vllm":
        return _open_vllm(config, settings, stack)
    if settings.kind == "openai":
        return _open_openai(config, settings, setting, stack)
    from semievol.engines.local import LocalGenerator

    generator = LocalGenerator(
        _model_of(config, settings),
        threads=settings.threads or config.training.threads,
        max_batch=settings.max_batch,
        cache_tokens=settings.cache_tokens,
    )
    stack.push_async_callback(generator.close)
    return generator


def _model_of(config: MethodConfig, settings: GenerationConfig) -> ModelConfig:
    """The model that an engine answers with: its own, or the one that is trained."""
    if settings.model is None:
        return config.model
    return config.model.model_copy(update={"name": settings.model, "revision": None, "chat_template": None})


def _open_vllm(config: MethodConfig, settings: GenerationConfig, stack: AsyncExitStack) -> Generator:
    from semievol.engines.plain.reading import PromptReader
    from semievol.engines.vllm import FixedServers, VllmGenerator
    from semievol.engines.vllm_client import VllmClient
    from semievol.http.server_address import ServerAddress

    servers = [ServerAddress.at(url, settings.api_key, settings.base_name) for url in settings.replicas]
    client = VllmClient()
    pool = FixedServers(client, servers)
    generator = VllmGenerator(
        client,
        pool,
        reader=PromptReader(_model_of(config, settings)),
        concurrency=settings.concurrency,
        timeout_s=settings.timeout_s,
    )
    stack.push_async_callback(generator.close)
    stack.push_async_callback(_unload_all, pool)
    return generator


async def _unload_all(pool: FixedServers) -> None:
    with suppress(TransientError):  # a server that is gone has nothing loaded
        await pool.unload_all()


def _open_openai(config: MethodConfig, settings: GenerationConfig, setting: str, stack: AsyncExitStack) -> Generator:
    from semievol.engines.openai import OpenAIGenerator
    from semievol.engines.openai_client import OpenAIClient

    client = OpenAIClient(
        str(settings.base_url),
        settings.api_key,
        key_setting=f"{setting}.api_key",
        connections=settings.concurrency + 1,  # one for the question whether it lives
    )
    generator = OpenAIGenerator(
        client,
        settings.model or config.model.name,
        setting=setting,
        concurrency=settings.concurrency,
        timeout_s=settings.timeout_s,
        samples_in_one_request=settings.samples_in_one_request,
    )
    stack.push_async_callback(generator.close)
    return generator
