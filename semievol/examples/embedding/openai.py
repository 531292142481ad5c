"""Texts to vectors by an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from semievol.backoff import Backoff
from semievol.errors import ConfigError, DataError, TransientError
from semievol.examples.embedding.unit import unit_rows
from semievol.http.errors import OddAnswerError, OverloadedError, RefusedError, TimedOutError, UnreachedError
from semievol.http.server_address import ServerAddress
from semievol.protocols import Vectors

if TYPE_CHECKING:
    from semievol.http.client import BlockingHttpClient

_TIMEOUT_S = 30.0
_PATIENCE_S = 20.0
_BUSY = Backoff(0.25, 5.0)
_TOO_MUCH = (TimedOutError, UnreachedError, OverloadedError)
_TEXTS_FAULT = (400, 413, 422)
"""These may be about the texts: one too long, or too many at a time. They may be about the model, too."""
_SPENT = (402, 429)
_INNOCENT = "dimensions"


class OpenAIEmbedder:
    """A server with /v1/embeddings (vLLM, text-embeddings-inference, OpenAI).

    Args:
        model: the model's name at the endpoint.
        base_url: endpoint up to and including /v1.
        api_key: bearer token, or None.
        batch_size: texts per request.
        http: asks the endpoint; None: one of its own.

    Raises:
        ConfigError: the endpoint refuses the model or the key.
        TransientError: the endpoint does not answer, or what is paid for is spent.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key: str | None = None,
        batch_size: int = 64,
        http: BlockingHttpClient | None = None,
    ) -> None:
        from semievol.http.client import BlockingHttpClient

        self._url = base_url.rstrip("/")
        self._server = ServerAddress.at(
            self._url, api_key, name=f"embedding endpoint {self._url}", key_setting="embedding.api_key"
        )
        self._http = http or BlockingHttpClient()
        self._model = model
        self._batch_size = self._at_once = batch_size
        self._name = f"openai:{model}@{self._url}"
        self._dimensions = int(self._settled([_INNOCENT]).shape[1])

    @property
    def name(self) -> str:
        return self._name

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per text.

        Raises:
            DataError: the endpoint refuses one of the texts; its place is named, counted from 1.
            ConfigError, TransientError: see above.
        """
        if not texts:
            return np.zeros((0, self._dimensions), dtype=np.float32)
        parts: list[Vectors] = []
        rest = list(texts)
        while rest:
            parts.append(self._next(rest, len(texts)))
            rest = rest[len(parts[-1]) :]
        vectors = np.concatenate(parts)
        if vectors.shape[1] != self._dimensions:
            raise ConfigError(
                f"embedding.base_url: the endpoint changed from {self._dimensions} to {vectors.shape[1]} dimensions; "
                "restart to rebuild the index"
            )
        return vectors

    def _next(self, rest: list[str], given: int) -> Vectors:
        """The vectors of the first texts: as many as the endpoint manages at a time, and asked again while it is busy.

        Half as many after it was late, had too much to do or refused them together, one more after each answer.
        """

        def asked() -> Vectors:
            while True:
                some = rest[: self._at_once]
                try:
                    vectors = self._request(some)
                except _TOO_MUCH:
                    self._at_once = max(1, self._at_once // 2)
                    raise
                except RefusedError as refused:
                    if refused.status not in _TEXTS_FAULT:
                        raise self._settings_fault(refused) from refused
                    if len(some) == 1:
                        raise self._fault(refused, some[0], given - len(rest) + 1, given) from refused
                    self._at_once = max(1, len(some) // 2)
                else:
                    self._at_once = min(self._batch_size, self._at_once + 1)
                    return vectors

        return _BUSY.call_blocking(asked, retry_on=_TOO_MUCH, patience_s=_PATIENCE_S)

    def _fault(self, refused: RefusedError, text: str, place: int, given: int) -> DataError:
        """The text's, where an innocent one is not refused."""
        self._settled([_INNOCENT])
        return DataError(
            f"embedding: {self._url} refuses text {place} of {given}, {len(text)} characters, with HTTP "
            f"{refused.status}: {refused.message}; shorten it, or let the endpoint cut texts (embedding.base_url)"
        )

    def _settings_fault(self, refused: RefusedError) -> ConfigError | TransientError:
        said = f"{self._url} answered HTTP {refused.status}: {refused.message}"
        if refused.status in _SPENT:  # no setting's fault: it goes on when somebody has paid
            return TransientError(f"embedding: the quota is spent: {said}")
        return ConfigError(f"embedding: {said}")

    def _settled(self, texts: list[str]) -> Vectors:
        """The vectors of texts that nothing is wrong with: a refusal is the settings' fault."""
        try:
            return self._request(texts)
        except RefusedError as refused:
            raise self._settings_fault(refused) from refused

    def _request(self, texts: list[str]) -> Vectors:
        content = {"model": self._model, "input": texts}
        try:
            answer = self._http.ask(self._server, "POST", "/embeddings", timeout_s=_TIMEOUT_S, json=content)
            rows = sorted(answer.object("data")["data"], key=lambda row: row["index"])
            vectors = np.asarray([row["embedding"] for row in rows], dtype=np.float32)
        except (OddAnswerError, ValueError, OverflowError, KeyError, TypeError) as error:
            raise ConfigError(
                f"embedding.base_url: {self._url} does not speak the OpenAI embeddings API ({error!r})"
            ) from error
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise TransientError(f"{self._server.name}: {len(rows)} vectors for {len(texts)}")
        return unit_rows(vectors)
