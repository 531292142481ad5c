"""Several engines as one Generator: each request goes to the engine that it names.

Owns the split of a call among engines, and the adapters that configurations name themselves: those stay loaded
whatever the rounds unload. Invariant: a call either returns everything, in order, or raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from semievol.errors import ConfigError
from semievol.protocols import Generator
from semievol.types import Completion, GenerationRequest


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

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        places: dict[str | None, list[int]] = {}
        for place, request in enumerate(requests):
            if request.model not in self._engines:
                raise ConfigError(f"models: there is no {request.model!r}; add it")
            places.setdefault(request.model, []).append(place)
        tasks = [
            asyncio.create_task(self._engines[model].generate([self._own(requests[place]) for place in own]))
            for model, own in places.items()
        ]
        try:
            answers = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        found = {
            place: completions
            for own, answered in zip(places.values(), answers, strict=True)
            for place, completions in zip(own, answered, strict=True)
        }
        return [found[place] for place in range(len(requests))]

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
