"""What the method needs from the world, as protocols; the only places where a test may use a fake.

A Generator answers prompts with named adapters, an Embedder turns texts into vectors, an ExampleIndex finds
neighbours. Implementations: engines.local, (engines.vllm), embedding, example_index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from semievol.types import Completion, Example, GenerationRequest, Neighbour

Vectors = NDArray[np.float32]
Progress = Callable[[int], None]
"""Is told how many items were finished since it was last called."""


class Generator(Protocol):
    """Answers prompts with the base model or one of the loaded adapters."""

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        """Answer every request; result[i] has requests[i].samples completions.

        Raises:
            AdapterError: a request names an adapter that is not loaded.
            TransientError: the engine did not answer; nothing was generated.
        """
        ...

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
