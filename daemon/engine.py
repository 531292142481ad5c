"""Chooses what answers prompts: the generator that the configuration names, opened and ready to load adapters."""

from __future__ import annotations

from contextlib import AsyncExitStack

from daemon.config import DaemonConfig
from semievol.protocols import Generator


async def open_engine(config: DaemonConfig, stack: AsyncExitStack) -> Generator:
    """The generator of `generation`; it is closed with `stack`.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    from semievol.local_generator import LocalGenerator

    generator = LocalGenerator(config.model, threads=config.generation.threads, max_batch=config.generation.max_batch)
    stack.push_async_callback(generator.close)
    await generator.start()
    return generator
