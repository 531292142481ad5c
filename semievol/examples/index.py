"""The retrievable examples on a Qdrant server: the one module that knows Qdrant.

Owns the collection, point ids and payloads. Does not own the examples: it can be rebuilt from them at any time. Without
a server, `examples.resident` is the index. Invariants: a point's id is a function of the example's id, a point's
payload is the whole example, and all vectors come from the embedder whose name is kept beside the collection.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from semievol.errors import ConfigError, TransientError
from semievol.examples.embedding.each import vector_of_each
from semievol.examples.records import example_to_json, stored_example
from semievol.protocols import Embedder, Vectors
from semievol.types import Example, Neighbour

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qdrant_client import QdrantClient

logger = logging.getLogger(__name__)

_NAMESPACE = uuid.UUID("6f0c8a52-5d0e-5d43-9a61-0a3f4f6f2c11")
_PAGE = 256


def point_id(example_id: str) -> str:
    """The Qdrant id of an example: the same on every machine, so that upserts are idempotent."""
    return str(uuid.uuid5(_NAMESPACE, example_id))


class QdrantExampleIndex:
    """An ExampleIndex in Qdrant; all methods may be called from any thread.

    Args:
        embedder: makes all vectors; with another name or dimension than last time, all examples are embedded anew.
        collection: name of the index; its collections are `<name>-<hash of the embedder>` and `<name>.about`.
        url: the server.
        api_key: the server's key.

    Raises:
        ConfigError: the server refuses the key, or its client is not installed.
        TransientError: the server does not answer.
    """

    def __init__(self, embedder: Embedder, collection: str, url: str, api_key: str | None = None) -> None:
        self._embedder = embedder
        self._collection = collection
        identity = f"{embedder.name}\x1f{embedder.dimensions}".encode()
        self._points = f"{collection}-{hashlib.blake2b(identity, digest_size=4).hexdigest()}"
        self._about = f"{collection}.about"
        self._where = url
        self._lock = threading.Lock()
        self._client = _open_client(url, api_key)
        try:
            with self._lock, _translated(self._where):
                self._prepare()
        except BaseException:
            self._client.close()
            raise

    # --- ExampleIndex ----------------------------------------------------------------------------------------------

    def upsert(self, examples: Sequence[Example]) -> None:
        """Add or replace by example id; of several with one id the last wins.

        Raises:
            DataError: the embedder refuses the question of one; it is named.
        """
        latest = list({example.id: example for example in examples}.values())
        for start in range(0, len(latest), _PAGE):
            taken, refused = vector_of_each(self._embedder, latest[start : start + _PAGE])
            if refused:
                raise next(iter(refused.values()))
            with self._lock, _translated(self._where):
                self._write(taken)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove by example id; unknown ids are a no-op."""
        if not ids:
            return
        with self._lock, _translated(self._where):
            self._client.delete(self._points, points_selector=[point_id(each) for each in ids], wait=True)

    def neighbours(self, questions: Sequence[str], k: int) -> list[list[Neighbour]]:
        """The k nearest examples of each question, nearest first (equals by example id)."""
        if k < 1 or not questions:
            return [[] for _ in questions]
        vectors = self._embedder.embed(questions)
        with self._lock, _translated(self._where):
            answers: list[Any] = self._client.query_batch_points(self._points, requests=_requests(vectors, k))
        found = [
            [Neighbour(_decoded(point.payload), max(-1.0, min(1.0, point.score))) for point in answer.points]
            for answer in answers
        ]
        for row in found:
            row.sort(key=lambda neighbour: (-neighbour.similarity, neighbour.example.id))
        return found

    def ids(self) -> frozenset[str]:
        """The ids of all examples that can be retrieved."""
        with self._lock, _translated(self._where):
            return frozenset(record.payload["id"] for record in self._scroll(self._points, ["id"]))

    def close(self) -> None:
        """Release the connection; safe to call twice."""
        with self._lock:
            self._client.close()

    # --- Qdrant ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Open the collection that this embedder filled, or copy the examples of another one's into a new collection.

        1. Create `<collection>-<hash of the embedder>` and embed into it what the collection in use holds.
        2. Note it as the one in use: a crash before this changes nothing, after it the copy is complete.
        3. Delete the one that was in use.
        """
        previous = self._noted()
        if previous != self._points:
            self._create(self._points, self._embedder.dimensions)
            kept = [_decoded(record.payload) for record in self._scroll(previous)] if previous else []
            if kept:
                taken, refused = vector_of_each(self._embedder, kept)
                for refusal in refused.values():
                    logger.error("left out of the example index: %s", refusal)
                if taken:
                    self._write(taken)
            self._note()
        for name in self._obsolete():
            self._client.delete_collection(name)

    def _noted(self) -> str | None:
        """The collection in use, by the note; None in a new index."""
        if not self._client.collection_exists(self._about):
            return None
        notes = self._client.retrieve(self._about, ids=[0], with_payload=True)
        name = str(notes[0].payload["collection"]) if notes and notes[0].payload else None
        return name if name is not None and self._client.collection_exists(name) else None

    def _note(self) -> None:
        """Write down, in a collection of one point, which collection is in use and who made its vectors."""
        from qdrant_client import models

        self._create(self._about, 1)
        content = {
            "collection": self._points,
            "embedder": self._embedder.name,
            "dimensions": self._embedder.dimensions,
        }
        self._client.upsert(self._about, points=[models.PointStruct(id=0, vector=[1.0], payload=content)], wait=True)

    def _obsolete(self) -> list[str]:
        """This index's collections that another embedder filled."""
        ours = re.compile(re.escape(self._collection) + r"-[0-9a-f]{8}")
        names = [each.name for each in self._client.get_collections().collections]
        return [name for name in names if ours.fullmatch(name) and name != self._points]

    def _create(self, name: str, dimensions: int) -> None:
        from qdrant_client import models
        from qdrant_client.http.exceptions import UnexpectedResponse

        if self._client.collection_exists(name):
            return
        # Vectors have unit length, so the dot product is the cosine, here and in examples.resident.
        params = models.VectorParams(size=dimensions, distance=models.Distance.DOT)
        try:
            self._client.create_collection(name, vectors_config=params)
        except UnexpectedResponse as error:
            if error.status_code != 409:  # another replica was first
                raise

    def _write(self, examples: Sequence[tuple[Example, NDArray[np.float32]]]) -> None:
        from qdrant_client import models

        points = [
            models.PointStruct(id=point_id(example.id), vector=vector.tolist(), payload=_encoded(example))
            for example, vector in examples
        ]
        self._client.upsert(self._points, points=points, wait=True)

    def _scroll(self, collection: str, with_payload: bool | list[str] = True) -> Iterator[Any]:
        offset = None
        while True:
            records, offset = self._client.scroll(
                collection, limit=_PAGE, offset=offset, with_payload=with_payload, with_vectors=False
            )
            yield from records
            if offset is None:
                return


def _requests(vectors: Vectors, k: int) -> list[Any]:
    from qdrant_client import models

    return [models.QueryRequest(query=row, limit=k, with_payload=True) for row in vectors.tolist()]


def check_server(url: str, api_key: str | None) -> int:
    """How many collections the Qdrant server at `url` has.

    Raises:
        ConfigError: it refuses the key, or its client is not installed.
        TransientError: it does not answer.
    """
    client = _open_client(url, api_key)
    try:
        with _translated(url):
            return len(client.get_collections().collections)
    finally:
        client.close()


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Turn the client's errors into ours."""
    from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

    try:
        yield
    except UnexpectedResponse as error:
        status = error.status_code or 500
        if status in (401, 403):
            raise ConfigError(f"index: {where} refuses the API key (HTTP {status})") from error
        if 400 <= status < 500 and status not in (404, 408, 409, 429):
            raise ConfigError(f"index: {where} refuses the request (HTTP {status}): {error}") from error
        raise TransientError(f"index: {where} answered HTTP {status}") from error
    except ApiException as error:
        raise TransientError(f"index: {where} does not answer ({error})") from error


def _open_client(url: str, api_key: str | None) -> QdrantClient:
    try:
        from qdrant_client import QdrantClient
    except ImportError as missing:
        raise ConfigError(
            "index.url: a Qdrant server needs the package qdrant-client: pip install 'semievol[qdrant]'"
        ) from missing
    return QdrantClient(url=url, api_key=api_key, check_compatibility=False)


def _encoded(example: Example) -> dict[str, Any]:
    """The payload: the id for reading lists of ids, and the whole example as one JSON text."""
    return {"id": example.id, "example": json.dumps(example_to_json(example), ensure_ascii=False)}


def _decoded(payload: dict[str, Any]) -> Example:
    return stored_example(json.loads(payload["example"]), str(payload["id"]))
