"""The retrievable examples in Qdrant: the one module that knows Qdrant.

Owns the collection, point ids and payloads, for the local mode (one process, guarded by a directory lock) and for a
server. Does not own the examples: it can be rebuilt from them at any time. Invariants: a point's id is a function of
the example's id, a point's payload is the whole example, and all vectors come from the embedder whose name is
kept beside the collection.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semievol.data import example_from_json, example_to_json
from semievol.errors import ConfigError, TransientError
from semievol.protocols import Embedder
from semievol.types import Example, Neighbour

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_NAMESPACE = uuid.UUID("6f0c8a52-5d0e-5d43-9a61-0a3f4f6f2c11")
_PAGE = 256


def point_id(example_id: str) -> str:
    """The Qdrant id of an example: the same on every machine, so that upserts are idempotent."""
    return str(uuid.uuid5(_NAMESPACE, example_id))


class QdrantExampleIndex:
    """An ExampleIndex in Qdrant; all methods may be called from any thread.

    Args:
        embedder: makes all vectors; another name or dimension than last time rebuilds the collection.
        collection: name of the collection.
        path: directory of the local mode; None (and no url): in memory.
        url: a Qdrant server; then path must be None.
        api_key: the server's key.

    Raises:
        ConfigError: another process holds `path`, or the server refuses the key.
        TransientError: the server does not answer.
    """

    def __init__(
        self,
        embedder: Embedder,
        collection: str,
        path: Path | None = None,
        url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        if path is not None and url is not None:
            raise ConfigError("index: set either path (local mode) or url (server), not both")
        self._embedder = embedder
        self._collection = collection
        self._local = url is None
        self._where = url or str(path or "memory")
        self._lock = threading.Lock()
        self._client = _open_client(path, url, api_key)
        # Local mode only, where this process is the sole writer: decoding payloads would cost more than the search.
        self._examples: dict[str, Example] = {}
        try:
            with self._lock, self._translated():
                self._prepare()
        except BaseException:
            self._client.close()
            raise

    # --- ExampleIndex ----------------------------------------------------------------------------------------------

    def upsert(self, examples: Sequence[Example]) -> None:
        """Add or replace by example id; of several with one id the last wins."""
        latest = list({example.id: example for example in examples}.values())
        for start in range(0, len(latest), _PAGE):
            page = latest[start : start + _PAGE]
            vectors = self._embedder.embed([example.query.question for example in page])
            with self._lock, self._translated():
                self._write(page, vectors.tolist())

    def delete(self, ids: Sequence[str]) -> None:
        """Remove by example id; unknown ids are a no-op."""
        if not ids:
            return
        points = [point_id(identity) for identity in ids]
        with self._lock, self._translated():
            # The local mode raises for an unknown point where the server does not.
            known = [point for point in points if point in self._examples] if self._local else points
            if known:
                self._client.delete(self._collection, points_selector=list(known), wait=True)
            for point in known:
                self._examples.pop(point, None)

    def neighbours(self, questions: Sequence[str], k: int) -> list[list[Neighbour]]:
        """The k nearest examples of each question, nearest first (equals by example id)."""
        if k < 1 or not questions:
            return [[] for _ in questions]
        vectors = self._embedder.embed(questions)
        with self._lock, self._translated():
            answers = self._client.query_batch_points(self._collection, requests=self._requests(vectors, k))
            found = [
                [Neighbour(self._example(point), max(-1.0, min(1.0, point.score))) for point in answer.points]
                for answer in answers
            ]
        for row in found:
            row.sort(key=lambda neighbour: (-neighbour.similarity, neighbour.example.id))
        return found

    def ids(self) -> frozenset[str]:
        """The ids of all examples that can be retrieved."""
        with self._lock, self._translated():
            if self._local:
                return frozenset(example.id for example in self._examples.values())
            return frozenset(record.payload["id"] for record in self._scroll(["id"]))

    def close(self) -> None:
        """Release the directory lock or the connection; safe to call twice."""
        with self._lock:
            self._client.close()

    # --- Qdrant ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Create the collection, or rebuild it from its own payloads when another embedder filled it."""
        wanted = {"embedder": self._embedder.name, "dimensions": self._embedder.dimensions}
        about = f"{self._collection}.about"
        kept: list[Example] = []
        if self._client.collection_exists(self._collection):
            kept = [_decoded(record.payload) for record in self._scroll(True)]
            if self._client.collection_exists(about):
                notes = self._client.retrieve(about, ids=[0], with_payload=True)
                if notes and notes[0].payload == wanted:
                    if self._local:
                        self._examples = {point_id(example.id): example for example in kept}
                    return
            self._client.delete_collection(self._collection)
        self._create(self._collection, self._embedder.dimensions)
        if kept:
            vectors = self._embedder.embed([example.query.question for example in kept])
            self._write(kept, vectors.tolist())
        self._note(about, wanted)

    def _create(self, name: str, dimensions: int) -> None:
        from qdrant_client import models

        # Vectors have unit length, so the dot product is the cosine; the local mode computes it far faster.
        params = models.VectorParams(size=dimensions, distance=models.Distance.DOT)
        self._client.create_collection(name, vectors_config=params)

    def _note(self, about: str, content: dict[str, Any]) -> None:
        """Write down, in a collection of one point, who made the vectors (last: a crash before it rebuilds)."""
        from qdrant_client import models

        if not self._client.collection_exists(about):
            self._create(about, 1)
        self._client.upsert(about, points=[models.PointStruct(id=0, vector=[1.0], payload=content)], wait=True)

    def _write(self, examples: Sequence[Example], vectors: Sequence[list[float]]) -> None:
        from qdrant_client import models

        points = [
            models.PointStruct(id=point_id(example.id), vector=vector, payload=_encoded(example))
            for example, vector in zip(examples, vectors, strict=True)
        ]
        self._client.upsert(self._collection, points=points, wait=True)
        if self._local:
            self._examples.update({point_id(example.id): example for example in examples})

    def _requests(self, vectors: Any, k: int) -> list[Any]:
        from qdrant_client import models

        if not self._local:
            return [models.QueryRequest(query=row.tolist(), limit=k, with_payload=True) for row in vectors]
        # Built without validation, because that would turn the array into a list of floats which the local mode then
        # copies element by element: 0.1 ms a query instead of 0.5 ms.
        return [
            models.QueryRequest.model_construct(
                query=models.NearestQuery.model_construct(nearest=row), limit=k, with_payload=False
            )
            for row in vectors
        ]

    def _example(self, point: Any) -> Example:
        return self._examples[str(point.id)] if self._local else _decoded(point.payload)

    def _scroll(self, with_payload: bool | list[str]) -> Iterator[Any]:
        offset = None
        while True:
            records, offset = self._client.scroll(
                self._collection, limit=_PAGE, offset=offset, with_payload=with_payload, with_vectors=False
            )
            yield from records
            if offset is None:
                return

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the client's errors into ours."""
        from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

        try:
            yield
        except UnexpectedResponse as error:
            status = error.status_code or 500
            if status in (401, 403):
                raise ConfigError(f"index: {self._where} refuses the API key (HTTP {status})") from error
            if 400 <= status < 500 and status not in (404, 408, 409, 429):
                raise ConfigError(f"index: {self._where} refuses the request (HTTP {status}): {error}") from error
            raise TransientError(f"index: {self._where} answered HTTP {status}") from error
        except ApiException as error:
            raise TransientError(f"index: {self._where} does not answer ({error})") from error


def _open_client(path: Path | None, url: str | None, api_key: str | None) -> QdrantClient:
    from qdrant_client import QdrantClient

    if url is not None:
        return QdrantClient(url=url, api_key=api_key, check_compatibility=False)
    if path is None:
        return QdrantClient(location=":memory:")
    try:
        return QdrantClient(path=str(path), force_disable_check_same_thread=True)
    except RuntimeError as error:
        if "already accessed" not in str(error):
            raise
        raise ConfigError(
            f"index.path: {path} is held by another process; stop that one, or use a Qdrant server (index.url)"
        ) from error
    except OSError as error:
        raise ConfigError(f"index.path: {path} cannot be opened ({error.strerror or error})") from error


def _encoded(example: Example) -> dict[str, Any]:
    """The payload: the id for reading lists of ids, and the whole example as one JSON text."""
    return {"id": example.id, "example": json.dumps(example_to_json(example), ensure_ascii=False)}


def _decoded(payload: dict[str, Any]) -> Example:
    return example_from_json(json.loads(payload["example"]))
