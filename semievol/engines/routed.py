"""Several engines as one Generator: each request goes to the engine that it names.

Owns the split of a call among engines, and the adapters that configurations name themselves: those stay loaded
whatever the rounds unload. Invariant: an engine that fails keeps back no answer of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from semievol.errors import ConfigError
from semievol.protocols import Generator, Tell
from semievol.types import GenerationRequest


class RoutedGenerator(Generator):
    """One engine for the rounds and their adapters, and others by name."""

    def __init__(
        self, main: Generator, others: Mapping[str, Generator], names: Mapping[tuple[str | None, str], str]
    ) -> None:
        """Take engines that are open; they are closed by whoever opened them.

        Args:
            main: answers requests that name no model; loads and unloads what the rounds make.
            others: answer requests of `model`.
            names: what the adapter of a configuration (its model, its setting) is loaded as there.
        """
        self._engines: dict[str | None, Generator] = {None: main}
        self._engines.update(others)
        self._main = main
        self._names = names
        self._pinned = frozenset(name for (model, _), name in names.items() if model is None)

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        places: dict[str | None, list[int]] = {}
        for place, request in enumerate(requests):
            if request.model not in self._engines:
                raise ConfigError(f"models: there is no {request.model!r}; add it")
            places.setdefault(request.model, []).append(place)

        async def ask(model: str | None, own: list[int]) -> None:
            its_own = [self._own(requests[place]) for place in own]
            await self._engines[model].answer(its_own, lambda place, reply: tell(own[place], reply))

        tasks = [asyncio.create_task(ask(model, own)) for model, own in places.items()]
        try:
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)  # an engine that fails fails for itself
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if (failure := next((each for each in outcomes if each is not None), None)) is not None:
            raise failure

    def _own(self, request: GenerationRequest) -> GenerationRequest:
        """The request as its engine knows it."""
        adapter = request.adapter
        if adapter is not None:
            adapter = self._names.get((request.model, adapter), adapter)
        return replace(request, model=None, adapter=adapter)

    async def load_adapter(self, name: str, path: Path) -> None:
        await self._main.load_adapter(name, path)

    async def unload_adapter(self, name: str) -> None:
        if name not in self._pinned:
            await self._main.unload_adapter(name)

    async def loaded_adapters(self) -> frozenset[str]:
        return await self._main.loaded_adapters() - self._pinned

    async def close(self) -> None:
        """Nothing: the engines are not its own."""
