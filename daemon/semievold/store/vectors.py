"""The vectors of the retrievable examples, beside them in the state: read by every process, made by one.

Owns the table `example_vectors`; a retraction empties its row in `semievold.store.examples`. Invariant: a vector is
given out only for the embedder that made it and for the very question that it was made of, so that nothing here has to
be kept in step: what does not fit is made again and takes the old one's place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from semievol.protocols import Embedder, Vectors
from semievol.types import Example
from semievold.store.database import Database, chunks
from semievold.store.tables import example_vectors, examples

_STORED = np.dtype("<f4")


class VectorCount(NamedTuple):
    """How many vectors of the workload an embedder made."""

    embedder: str
    dimensions: int
    vectors: int


class ExampleVectors:
    """One workload's vectors of one embedder: a `semievol.protocols.KeptVectors`."""

    def __init__(self, database: Database, workload: str, embedder: Embedder) -> None:
        self._database = database
        self._workload = workload
        self._embedder = embedder.name
        self._dimensions = embedder.dimensions

    def of(self, given: Sequence[Example]) -> dict[str, NDArray[np.float32]]:
        """{example id: its vector, shape (dimensions,)} of those whose question, as it is, was embedded before."""
        wanted = {example.id: question_hash(example) for example in given}
        columns = example_vectors.c["example_id", "content", "vector"]
        found: dict[str, NDArray[np.float32]] = {}
        with self._database.read() as connection:
            for some in chunks(list(wanted)):
                statement = sa.select(*columns).where(
                    example_vectors.c.workload == self._workload,
                    example_vectors.c.example_id.in_(some),
                    example_vectors.c.embedder == self._embedder,
                    example_vectors.c.dimensions == self._dimensions,
                )
                for row in connection.execute(statement):
                    if row.content == wanted[row.example_id] and len(row.vector) == self._dimensions * _STORED.itemsize:
                        found[row.example_id] = np.frombuffer(row.vector, _STORED).astype(np.float32)
        return found

    def keep(self, given: Sequence[Example], vectors: Vectors) -> None:
        """Keep the vectors, shape (len(given), dimensions), of those that may still be retrieved."""
        rows = {
            example.id: {
                "workload": self._workload,
                "example_id": example.id,
                "embedder": self._embedder,
                "dimensions": self._dimensions,
                "content": question_hash(example),
                "vector": np.ascontiguousarray(vector, _STORED).tobytes(),
            }
            for example, vector in zip(given, vectors, strict=True)
        }
        update = ("embedder", "dimensions", "content", "vector")
        with self._database.write() as connection:
            for some in chunks(list(rows)):
                statement = sa.select(examples.c.id).where(
                    examples.c.workload == self._workload,
                    examples.c.id.in_(some),
                    examples.c.retracted.is_(False),
                    examples.c.holdout.is_(False),
                )
                stay = connection.execute(statement).scalars().all()
                self._database.upsert(connection, example_vectors, [rows[each] for each in stay], update)


def count_vectors(database: Database, workload: str) -> list[VectorCount]:
    """How many vectors there are, by embedder, the most first."""
    count = sa.func.count()
    columns = example_vectors.c["embedder", "dimensions"]
    statement = sa.select(*columns, count).where(example_vectors.c.workload == workload).group_by(*columns)
    with database.read() as connection:
        rows = connection.execute(statement.order_by(count.desc(), *columns)).all()
    return [VectorCount(row[0], row[1], row[2]) for row in rows]


def question_hash(example: Example) -> str:
    """Of the text that is embedded."""
    text = example.query.question.encode(errors="surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()
