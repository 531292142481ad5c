"""The example index in memory: exact search, without a server and without a file.

Owns what can be searched in this process. The vectors outlive it where a `KeptVectors` keeps them; the examples are
their owner's. Invariant: what is found for a question depends on the examples and the question alone, not on what is
asked beside it, not on the order of changes, and not on the number of threads.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from semievol.errors import DataError
from semievol.examples.embedding.each import vector_of_each
from semievol.protocols import Embedder, KeptVectors, Vectors
from semievol.types import Example, Neighbour

BLOCK = 1024
"""Examples in a block: a change copies the blocks that it touches, and a product with one stays in the cache."""
AT_ONCE = 64
"""Questions in one product: bounds the table of similarities."""
PAGE = 256
_OPENBLAS = ThreadpoolController().select(internal_api="openblas")
"""numpy's own. Its threads spin after each product: beside a model they cost a core and gain nothing (32 questions,
500 examples: twice the processor time for an answer that comes later)."""


class ResidentExampleIndex:
    """An ExampleIndex in memory; all methods may be called from any thread.

    Args:
        embedder: makes all vectors that `kept` does not have.
        kept: where vectors are looked up before they are made, and put after; None: they end with the process.
    """

    def __init__(self, embedder: Embedder, kept: KeptVectors | None = None) -> None:
        self._embedder = embedder
        self._kept = kept
        self._lock = threading.Lock()
        self._resident = ResidentExamples(embedder.dimensions)
        self.embedded = 0
        """How many examples had no kept vector, so far."""

    def upsert(self, examples: Sequence[Example]) -> None:
        """Add or replace by example id; of several with one id the last wins.

        Raises:
            DataError: the embedder refuses the question of one; it is named, and what comes with it is not added.
        """
        for page in _pages(examples):
            vectors, refused = self._vectors(page)
            if refused:
                raise next(iter(refused.values()))
            self._put(page, vectors)

    def upsert_what_can_be(self, examples: Sequence[Example]) -> dict[str, DataError]:
        """As `upsert`; those whose question the embedder refuses stay as they were, and come back by id."""
        refused: dict[str, DataError] = {}
        for page in _pages(examples):
            vectors, refusals = self._vectors(page)
            self._put([example for example in page if example.id in vectors], vectors)
            refused |= refusals
        return refused

    def delete(self, ids: Sequence[str]) -> None:
        """Remove by example id; unknown ids are a no-op."""
        with self._lock:
            self._resident.remove(ids)

    def neighbours(self, questions: Sequence[str], k: int) -> list[list[Neighbour]]:
        """The k nearest examples of each question, nearest first (equals by example id)."""
        if k < 1 or not questions:
            return [[] for _ in questions]
        vectors = self._embedder.embed(questions)
        with self._lock:
            table = self._resident.table()
        return table.nearest(vectors, k)

    def ids(self) -> frozenset[str]:
        """The ids of all examples that can be retrieved."""
        with self._lock:
            return self._resident.ids()

    def close(self) -> None:
        """Nothing is held open."""

    def _put(self, page: Sequence[Example], vectors: Mapping[str, NDArray[np.float32]]) -> None:
        with self._lock:
            self._resident.put(page, [vectors[example.id] for example in page])

    def _vectors(self, page: Sequence[Example]) -> tuple[Mapping[str, NDArray[np.float32]], dict[str, DataError]]:
        """By id: the vectors, and why the embedder makes none."""
        known = {} if self._kept is None else self._kept.of(page)
        new = [example for example in page if example.id not in known]
        if not new:
            return known, {}
        made, refused = vector_of_each(self._embedder, new)
        if self._kept is not None and made:  # also where one is refused: nobody pays for the others again
            self._kept.keep([example for example, _ in made], np.stack([vector for _, vector in made]))
        self.embedded += len(made)
        return {**known, **{example.id: vector for example, vector in made}}, refused


def _pages(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """So many at a time; of several with one id the last."""
    latest = list({example.id: example for example in examples}.values())
    for start in range(0, len(latest), PAGE):
        yield latest[start : start + PAGE]


@dataclass(frozen=True, slots=True)
class ExampleTable:
    """Examples and their vectors of unit length, in blocks of shape (examples, dimensions); never changes."""

    blocks: tuple[tuple[tuple[Example, ...], Vectors], ...]

    def nearest(self, vectors: Vectors, k: int) -> list[list[Neighbour]]:
        """The k nearest examples of each vector, nearest first, equals by example id.

        Matrix products, a block at a time, find who may be among them; what they are ordered by is a dot product of
        each with the vector, because a matrix product rounds differently with the number of vectors, the place in the
        table and the threads, and equals would not be equal.
        """
        starts = np.cumsum([0, *(len(examples) for examples, _ in self.blocks)])
        count = int(starts[-1])
        k = min(k, count)
        if k == 0:
            return [[] for _ in vectors]
        found: list[list[Neighbour]] = []
        for first in range(0, len(vectors), AT_ONCE):
            some = np.ascontiguousarray(vectors[first : first + AT_ONCE])
            rough = np.empty((len(some), count), dtype=np.float32)
            with _OPENBLAS.limit(limits=1):
                for start, end, (_, block) in zip(starts, starts[1:], self.blocks, strict=False):
                    np.matmul(some, block.T, out=rough[:, start:end])
            found += self._nearest(some, rough, starts, k)
        return found

    def _nearest(
        self, vectors: Vectors, rough: NDArray[np.float32], starts: NDArray[np.intp], k: int
    ) -> Iterator[list[Neighbour]]:
        """Of each vector; all at once, because numpy's calls cost more than what they compute for a few hundred."""
        # Both roundings of a dot product of n terms of unit vectors are within n * eps / 2 of the true value, so
        # within n * eps of each other; one of the k nearest is below the k-th of the products by twice that at most.
        margin = 2.1 * vectors.shape[1] * float(np.finfo(np.float32).eps)
        last = rough.shape[1] - k
        bounds = np.partition(rough, last, axis=1)[:, last] - margin
        queries, places = np.nonzero(rough >= bounds[:, None])
        exact = np.empty(len(places), dtype=np.float32)
        examples: list[Example] = [None] * len(places)  # type: ignore[list-item]
        numbers = np.searchsorted(starts, places, side="right") - 1
        for number in np.unique(numbers).tolist():
            held, block = self.blocks[number]
            here = np.flatnonzero(numbers == number)
            rows = places[here] - starts[number]
            exact[here] = np.vecdot(block[rows], vectors[queries[here]])
            for place, row in zip(here.tolist(), rows.tolist(), strict=True):
                examples[place] = held[row]
        similarities = np.clip(exact, -1.0, 1.0).tolist()
        ends = np.searchsorted(queries, np.arange(len(vectors)), side="right").tolist()
        begin = 0
        for end in ends:
            ranked = sorted([(-similarities[place], examples[place].query.id, place) for place in range(begin, end)])
            yield [Neighbour(examples[place], similarities[place]) for _, _, place in ranked[:k]]
            begin = end


class ResidentExamples:
    """The examples by id, in blocks. Not thread-safe, except that a table which was handed out never changes."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._blocks: dict[int, tuple[tuple[Example, ...], Vectors]] = {}
        self._home: dict[str, int] = {}  # example id -> its block
        self._newest = 0

    def put(self, examples: Sequence[Example], vectors: Iterable[NDArray[np.float32]]) -> None:
        """Add or replace by example id; of several with one id the last wins."""
        given = {each.id: (each, vector) for each, vector in zip(examples, vectors, strict=True)}
        self.remove(given)
        rows = list(given.values())
        while rows:
            kept, old = self._blocks.get(self._newest, ((), np.empty((0, self._dimensions), dtype=np.float32)))
            if len(kept) >= BLOCK:
                self._newest += 1
                continue
            taken, rows = rows[: BLOCK - len(kept)], rows[BLOCK - len(kept) :]
            new = np.stack([vector for _, vector in taken])
            self._blocks[self._newest] = (*kept, *(each for each, _ in taken)), np.concatenate([old, new])
            self._home.update((each.id, self._newest) for each, _ in taken)

    def remove(self, ids: Iterable[str]) -> None:
        """Unknown ids are a no-op."""
        gone: dict[int, set[str]] = defaultdict(set)
        for identity in ids:
            if (number := self._home.pop(identity, None)) is not None:
                gone[number].add(identity)
        for number, some in gone.items():
            examples, vectors = self._blocks.pop(number)
            stay = [row for row, each in enumerate(examples) if each.id not in some]
            if stay:
                self._blocks[number] = tuple(examples[row] for row in stay), vectors[stay]

    def ids(self) -> frozenset[str]:
        return frozenset(self._home)

    def table(self) -> ExampleTable:
        """All of them as they are now."""
        return ExampleTable(tuple(self._blocks.values()))
