"""A Generator that asks another one only once for the same answer.

Owns the memory of one run. Adapters' names are immutable versions and sampling is seeded, so that a request has one
answer; the methods of a comparison share many of them (the base model's, the warm adapter's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from semievol.protocols import Generator
from semievol.types import Completion, GenerationRequest


class RememberedAnswers(Generator):
    """Answers from memory what was asked before; everything else goes to `generator`, in one call."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._known: dict[GenerationRequest, list[Completion]] = {}

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        keys = [_key(request) for request in requests]
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        if new:
            self._known.update(zip(new, await self._generator.generate(new), strict=True))
        return [self._known[key] for key in keys]

    async def load_adapter(self, name: str, path: Path) -> None:
        await self._generator.load_adapter(name, path)

    async def unload_adapter(self, name: str) -> None:
        await self._generator.unload_adapter(name)

    async def loaded_adapters(self) -> frozenset[str]:
        return await self._generator.loaded_adapters()

    async def close(self) -> None:
        await self._generator.close()


def _key(request: GenerationRequest) -> GenerationRequest:
    """Greedy answers do not depend on the seed."""
    return replace(request, seed=0) if request.temperature == 0 else request
