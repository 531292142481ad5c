"""Texts to vectors by an OpenAI-compatible endpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from semievol.errors import ConfigError, DataError, TransientError
from semievol.examples.embedding.unit import unit_rows
from semievol.http.wire_text import asked_wait_s
from semievol.protocols import Vectors

_PATIENCE_S = 20.0
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 5.0


class _BusyError(TransientError):
    """Late, or too much to do; the endpoint may have said how long to wait, in seconds."""

    def __init__(self, text: str, wait_s: float) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class OpenAIEmbedder:
    """A server with /v1/embeddings (vLLM, text-embeddings-inference, OpenAI).

    Args:
        model: the model's name at the endpoint.
        base_url: endpoint up to and including /v1.
        api_key: bearer token, or None.
        batch_size: texts per request.
        transport: httpx transport; None: the network. For tests.

    Raises:
        ConfigError: the endpoint refuses the model or the key.
        TransientError: the endpoint does not answer.
    """

    def __init__(
        self, model: str, base_url: str, api_key: str | None = None, batch_size: int = 64, transport: Any = None
    ) -> None:
        import httpx

        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(
            base_url=base_url.rstrip("/") + "/", headers=headers, timeout=30.0, transport=transport
        )
        self._model = model
        self._batch_size = self._at_once = batch_size
        self._name = f"openai:{model}@{base_url.rstrip('/')}"
        self._dimensions = int(self._request(["dimensions"]).shape[1])

    @property
    def name(self) -> str:
        return self._name

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self._dimensions), dtype=np.float32)
        parts: list[Vectors] = []
        rest = list(texts)
        while rest:
            parts.append(self._next(rest))
            rest = rest[len(parts[-1]) :]
        vectors = np.concatenate(parts)
        if vectors.shape[1] != self._dimensions:
            raise ConfigError(
                f"embedding.base_url: the endpoint changed from {self._dimensions} to {vectors.shape[1]} dimensions; "
                "restart to rebuild the index"
            )
        return vectors

    def _next(self, rest: list[str]) -> Vectors:
        """The vectors of the first texts: as many as the endpoint manages at a time, and asked again while it is busy.

        Half as many after it was late or had too much to do, one more after each answer.
        """
        failed_at, wait_s = None, _FIRST_WAIT_S  # a late answer may have taken longer than the patience
        while True:
            try:
                vectors = self._request(rest[: self._at_once])
            except _BusyError as busy:
                self._at_once = max(1, self._at_once // 2)
                pause_s = max(busy.wait_s, wait_s)
                failed_at = failed_at or time.monotonic()
                if time.monotonic() + pause_s >= failed_at + _PATIENCE_S:
                    raise
                time.sleep(pause_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            else:
                self._at_once = min(self._batch_size, self._at_once + 1)
                return vectors

    def _request(self, texts: list[str]) -> Vectors:
        import httpx

        try:
            response = self._client.post("embeddings", json={"model": self._model, "input": texts})
        except httpx.LocalProtocolError as error:  # its text may hold the header with the key
            raise ConfigError(f"embedding endpoint {self._client.base_url}: {type(error).__name__}") from None
        except UnicodeEncodeError:
            raise DataError("a text holds half of a surrogate pair, which no encoding takes") from None
        except httpx.TimeoutException as error:
            raise _BusyError(f"embedding endpoint {self._client.base_url}: {error!r}", 0.0) from error
        except httpx.HTTPError as error:
            raise TransientError(f"embedding endpoint {self._client.base_url}: {error!r}") from error
        if response.status_code in (429, 503):
            raise _BusyError(
                f"embedding endpoint {self._client.base_url}: HTTP {response.status_code}", asked_wait_s(response)
            )
        if response.status_code >= 500 or response.status_code == 408:
            raise TransientError(f"embedding endpoint {self._client.base_url}: HTTP {response.status_code}")
        if response.status_code >= 400:
            raise ConfigError(
                f"embedding: {self._client.base_url} answered HTTP {response.status_code}: {response.text[:200]}"
            )
        try:
            rows = sorted(response.json()["data"], key=lambda row: row["index"])
            vectors = np.asarray([row["embedding"] for row in rows], dtype=np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"embedding.base_url: {self._client.base_url} does not speak the OpenAI embeddings API ({error!r})"
            ) from error
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise TransientError(f"embedding endpoint {self._client.base_url}: {len(rows)} vectors for {len(texts)}")
        return unit_rows(vectors)
