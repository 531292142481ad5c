"""A Generator that asks another one only once for the same answer.

Owns the memory of one run, and of the run before it where there is a file. Adapters' names are immutable versions and
sampling is seeded, so that a request has one answer; the methods of a comparison share many of them (the base model's,
the warm adapter's). Invariant: an answer is in the memory before anybody is told of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from semievol import adapter_directory
from semievol.engines.answer_file import AnswerFile
from semievol.errors import AdapterError
from semievol.protocols import Generator, Tell
from semievol.types import Completion, GenerationRequest, Reply


class RememberedAnswers(Generator):
    """Answers from memory what was asked before; everything else goes to `generator`, in one call."""

    def __init__(self, generator: Generator, file: AnswerFile | None = None) -> None:
        """Remember nothing, or what is in `file`."""
        self._generator = generator
        self._file = file
        self._known: dict[GenerationRequest, list[Completion]] = {}
        self._versions: dict[str, str] = {}

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        places: dict[GenerationRequest, list[int]] = {}
        for place, request in enumerate(requests):
            key = _key(request)
            if (known := self._remembered(key)) is not None:
                tell(place, known)
            else:
                places.setdefault(key, []).append(place)
        new = list(places)

        def remember(number: int, reply: Reply) -> None:
            if isinstance(reply, list):
                self._remember(new[number], reply)
            for place in places[new[number]]:
                tell(place, reply)

        if new:
            await self._generator.answer(new, remember)

    def forget(self) -> None:
        """Let go of all answers in memory."""
        self._known.clear()

    async def load_adapter(self, name: str, path: Path) -> None:
        await self._generator.load_adapter(name, path)
        if self._file is not None:
            try:
                self._versions[name] = await asyncio.to_thread(adapter_directory.adapter_hash, path)
            except (OSError, AdapterError):
                self._versions.pop(name, None)

    async def unload_adapter(self, name: str) -> None:
        await self._generator.unload_adapter(name)

    async def loaded_adapters(self) -> frozenset[str]:
        return await self._generator.loaded_adapters()

    async def close(self) -> None:
        await self._generator.close()

    def _remembered(self, key: GenerationRequest) -> list[Completion] | None:
        if self._file is not None:
            return self._file.get(key, self._version(key))
        return self._known.get(key)

    def _remember(self, key: GenerationRequest, answer: list[Completion]) -> None:
        if self._file is not None:
            self._file.add(key, self._version(key), answer)
        else:
            self._known[key] = answer

    def _version(self, request: GenerationRequest) -> str | None:
        """What tells the adapter's content; its name, where that is all there is."""
        return None if request.adapter is None else self._versions.get(request.adapter, request.adapter)


def _key(request: GenerationRequest) -> GenerationRequest:
    """Greedy answers do not depend on the seed."""
    return replace(request, seed=0) if request.temperature == 0 else request
