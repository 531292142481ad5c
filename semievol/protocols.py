"""What the method needs from the world, as protocols; the only places where a test may use a fake.

A Generator answers prompts with named adapters, an Embedder turns texts into vectors, an ExampleIndex finds
neighbours, KeptVectors remembers vectors. Implementations: engines, examples.embedding, examples.resident,
examples.index and the daemon's store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from semievol.errors import DataError, LateError, TooLongError
from semievol.types import Completion, Example, GenerationRequest, Late, Neighbour, Refused, Reply

Vectors = NDArray[np.float32]
Progress = Callable[[int], None]
"""Is told how many items were finished since it was last called."""
Tell = Callable[[int, Reply], None]
"""Is told what became of a request, by its place in the call."""


class Generator(Protocol):
    """Answers prompts with the base model or one of the loaded adapters."""

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        """Answer the requests, each for itself: `tell` hears of each once, as soon as it is answered, refused or late.

        An error is of the whole call. It is raised when all that is being worked on has ended: what was told stays
        true, and what was not told was not answered.

        Raises:
            AdapterError: a request names an adapter that is not loaded.
            ConfigError: the engine cannot answer as it is set up.
            TransientError: nobody answers now.
        """
        ...

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        """All or nothing, for who has no use for a part; result[i] has requests[i].samples completions.

        Raises:
            AdapterError, ConfigError, TransientError: as `answer`; LateError is a TransientError.
            DataError: a request is refused.
        """
        replies: dict[int, Reply] = {}
        await self.answer(requests, replies.__setitem__)
        return [completions(replies[place]) for place in range(len(requests))]

    async def load_adapter(self, name: str, path: Path) -> None:
        """Make the adapter directory at `path` answerable as `name`. Loading a loaded name is a no-op.

        Raises:
            AdapterError: unfinished, corrupt or incompatible directory; the engine is as before.
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """Forget `name`; unknown names are a no-op. The caller has drained its requests."""
        ...

    async def loaded_adapters(self) -> frozenset[str]: ...

    async def close(self) -> None: ...


def completions(reply: Reply) -> list[Completion]:
    """The completions of a request that was answered.

    Raises:
        DataError, LateError: it was not.
    """
    if isinstance(reply, Refused):
        raise (TooLongError if reply.too_long else DataError)(reply.reason)
    if isinstance(reply, Late):
        raise LateError(reply.reason)
    return reply


class Embedder(Protocol):
    """Turns texts into unit vectors; the same text always gives the same vector."""

    @property
    def name(self) -> str:
        """Identifies model and version; an index built under another name is rebuilt."""
        ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit-length vectors, shape (len(texts), dimensions), float32."""
        ...


class KeptVectors(Protocol):
    """The vectors of one embedder for examples, where a restart and other processes find them again.

    Never the truth: a vector that is lost, or was made of another question, is not found, and made again.
    """

    def of(self, examples: Sequence[Example]) -> dict[str, NDArray[np.float32]]:
        """{example id: its vector, shape (dimensions,)} of those whose question, as it is, was embedded before."""
        ...

    def keep(self, examples: Sequence[Example], vectors: Vectors) -> None:
        """Keep the vectors, shape (len(examples), dimensions), by example id."""
        ...


class ExampleIndex(Protocol):
    """The examples that may be retrieved. Never holds a holdout example."""

    def upsert(self, examples: Sequence[Example]) -> None:
        """Add or replace by example id (idempotent)."""
        ...

    def delete(self, ids: Sequence[str]) -> None: ...

    def neighbours(self, questions: Sequence[str], k: int) -> list[list[Neighbour]]:
        """The k nearest examples of each question, nearest first; fewer when the index holds fewer."""
        ...

    def ids(self) -> frozenset[str]: ...

    def close(self) -> None: ...
