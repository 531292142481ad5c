"""A Generator that asks another one only once for the same answer.

Owns the memory of one run. Adapters' names are immutable versions and sampling is seeded, so that a request has one
answer; the methods of a comparison share many of them (the base model's, the warm adapter's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from semievol.protocols import Generator, Tell
from semievol.types import Completion, GenerationRequest, Reply


class RememberedAnswers(Generator):
    """Answers from memory what was asked before; everything else goes to `generator`, in one call."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._known: dict[GenerationRequest, list[Completion]] = {}

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        places: dict[GenerationRequest, list[int]] = {}
        for place, request in enumerate(requests):
            key = _key(request)
            if (known := self._known.get(key)) is not None:
                tell(place, known)
            else:
                places.setdefault(key, []).append(place)
        new = list(places)

        def remember(number: int, reply: Reply) -> None:
            if isinstance(reply, list):
                self._known[new[number]] = reply
            for place in places[new[number]]:
                tell(place, reply)

        if new:
            await self._generator.answer(new, remember)

    def forget(self) -> None:
        """Let go of all answers."""
        self._known.clear()

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
