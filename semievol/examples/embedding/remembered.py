"""Vectors that were asked for before: what a run or a round embeds again and again costs once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from semievol.protocols import Embedder, Vectors

REMEMBERED_AT_ONCE = 256


class RememberedVectors:
    """An Embedder that embeds each text once: the rounds of a run ask for the same queries again and again."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors: dict[str, Vectors] = {}

    @property
    def name(self) -> str:
        return self._embedder.name

    @property
    def dimensions(self) -> int:
        return self._embedder.dimensions

    def keep(self, texts: Collection[str]) -> None:
        """Forget all others: what is asked for again and again may be other texts each time."""
        kept = frozenset(texts)
        self._vectors = {text: vector for text, vector in self._vectors.items() if text in kept}

    def embed(self, texts: Sequence[str]) -> Vectors:
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        for start in range(0, len(new), REMEMBERED_AT_ONCE):  # what came stays when a later part does not
            part = new[start : start + REMEMBERED_AT_ONCE]
            self._vectors.update(zip(part, self._embedder.embed(part), strict=True))
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        return np.stack([self._vectors[text] for text in texts])
