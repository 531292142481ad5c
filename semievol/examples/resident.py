"""Examples and their vectors in memory: exact search for the local mode of the index, many times faster than asking it.

Owns no file: what is here is read from Qdrant's local mode, and written there first. Not thread-safe, except that a
table which was handed out never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semievol.protocols import Vectors
from semievol.types import Example, Neighbour


@dataclass(frozen=True, slots=True)
class ExampleTable:
    """Examples in the order of their ids, and their vectors of unit length, shape (examples, dimensions)."""

    examples: tuple[Example, ...]
    vectors: Vectors

    def nearest(self, vectors: Vectors, k: int) -> list[list[Neighbour]]:
        """The k nearest examples of each vector, nearest first, equals by example id."""
        k = min(k, len(self.examples))
        return [self._nearest(vector, k) if k else [] for vector in vectors]

    def _nearest(self, vector: NDArray[np.float32], k: int) -> list[Neighbour]:
        # One dot product per example: a matrix product would round differently with the number of vectors and the
        # place in the table, and equals would not be equal.
        similarities = np.vecdot(self.vectors, vector)
        places = np.flatnonzero(similarities >= np.partition(similarities, -k)[-k])
        found = [
            Neighbour(self.examples[place], max(-1.0, min(1.0, similarity)))
            for place, similarity in zip(places.tolist(), similarities[places].tolist(), strict=True)
        ]
        found.sort(key=lambda neighbour: -neighbour.similarity)  # equals stay in the order of their ids
        return found[:k]


class ResidentExamples:
    """The examples by id. A change makes the table anew when it is next asked for."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._held: dict[str, tuple[Example, NDArray[np.float32]]] = {}
        self._table: ExampleTable | None = None

    def put(self, examples: Sequence[Example], vectors: Vectors) -> None:
        """Add or replace by example id."""
        self._held.update((each.id, (each, vector)) for each, vector in zip(examples, vectors, strict=True))
        self._table = None

    def remove(self, ids: Iterable[str]) -> None:
        """Unknown ids are a no-op."""
        for identity in ids:
            self._held.pop(identity, None)
        self._table = None

    def ids(self) -> frozenset[str]:
        return frozenset(self._held)

    def table(self) -> ExampleTable:
        """All of them as they are now."""
        if self._table is None:
            held = [self._held[identity] for identity in sorted(self._held)]
            vectors = np.empty((len(held), self._dimensions), dtype=np.float32)
            for row, (_, vector) in zip(vectors, held, strict=True):
                row[:] = vector
            self._table = ExampleTable(tuple(example for example, _ in held), vectors)
            # The table's rows take the place of what came in: every vector is held once here.
            self._held = {example.id: (example, row) for (example, _), row in zip(held, vectors, strict=True)}
        return self._table
