"""Texts to unit vectors: sentence-transformers in process, an OpenAI-compatible endpoint, or plain hashing.

Owns the three Embedder implementations and nothing about storage. Invariants: vectors have unit length, the
same text gives the same vector, and `name` changes with the model, so that an index knows when it is stale. A
local model never touches the network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import threading
import time
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from semievol.config.method import EmbeddingConfig
from semievol.errors import ConfigError, TransientError
from semievol.protocols import Embedder, Vectors

_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".onnx", ".gguf"}
_FINGERPRINT_BYTES = 1 << 20
_INFORMATIVE_WORD_CHARS = 6
_BATCHES_AT_ONCE = 4


def build_embedder(config: EmbeddingConfig) -> Embedder:
    """The embedder that the configuration names.

    Raises:
        ConfigError: the model, package or endpoint setting is missing.
        TransientError: the endpoint does not answer.
    """
    if config.kind == "hashing":
        return HashingEmbedder(config.dimensions)
    if config.kind == "openai":
        if config.base_url is None:
            raise ConfigError("embedding.base_url: missing; set it to the endpoint up to and including /v1")
        return OpenAIEmbedder(config.name, config.base_url, config.api_key, config.batch_size)
    return SentenceTransformerEmbedder(config.name, config.batch_size)


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

    def embed(self, texts: Sequence[str]) -> Vectors:
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        self._vectors.update(zip(new, self._embedder.embed(new), strict=True))
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        return np.stack([self._vectors[text] for text in texts])


# --- sentence-transformers ------------------------------------------------------------------------------------------


class SentenceTransformerEmbedder:
    """A sentence-transformers model on this machine.

    Args:
        model: hub name, directory, or `package:NAME` for a model inside an installed Python package.
        batch_size: texts per forward pass.

    Raises:
        ConfigError: sentence-transformers or the model is missing.
    """

    def __init__(self, model: str, batch_size: int = 64) -> None:
        directory = _local_directory(model)
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError:
            raise ConfigError(
                "embedding.kind: sentence_transformers is not installed; pip install 'semievol[local]', "
                "or set embedding.kind to openai or hashing"
            ) from None
        source = model if directory is None else str(directory)
        logging.disable_progress_bar()
        try:
            self._model: Any = SentenceTransformer(source, local_files_only=directory is not None)
        except (OSError, ValueError) as error:
            raise ConfigError(f"embedding.name: {model!r} cannot be loaded ({error})") from error
        self._name = f"sentence-transformers:{model}" + (f"@{_fingerprint(directory)}" if directory else "")
        self._batch_size = batch_size
        # The tokenizer underneath refuses concurrent use.
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._name

    @property
    def dimensions(self) -> int:
        return int(self._model.get_embedding_dimension())

    def embed(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        size = _BATCHES_AT_ONCE * self._batch_size
        parts = [self._encode(texts[:size])]
        for start in range(size, len(texts), size):
            # A round embeds its whole pool while queries wait for their neighbours. The lock is not fair: whoever
            # gives it up and asks again at once has it before those that wait.
            time.sleep(0.001)
            parts.append(self._encode(texts[start : start + size]))
        return _unit(np.concatenate(parts))

    def _encode(self, texts: Sequence[str]) -> Vectors:
        with self._lock:
            vectors: Vectors = self._model.encode(
                list(texts), batch_size=self._batch_size, convert_to_numpy=True, show_progress_bar=False
            )
        return vectors


def _local_directory(model: str) -> Path | None:
    """The directory that `model` names on this machine, or None for a hub name."""
    if model.startswith("package:"):
        return package_model_directory(model.removeprefix("package:"))
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if model.startswith((".", "/", "~")):
        raise ConfigError(f"embedding.name: the directory {model!r} does not exist")
    return None


def package_model_directory(package: str) -> Path:
    """The directory inside an installed package that holds a model; the package is not imported.

    Raises:
        ConfigError: the package is not installed or holds no model.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"embedding.name: the package {package!r} is not installed; pip install {package.replace('_', '-')}"
        )
    for marker in ("modules.json", "config.json"):
        for location in spec.submodule_search_locations:
            found = sorted(Path(location).rglob(marker), key=lambda path: (len(path.parts), str(path)))
            if found:
                return found[0].parent
    raise ConfigError(f"embedding.name: the package {package!r} holds no model (no modules.json or config.json)")


def _fingerprint(directory: Path) -> str:
    """Tells one local model from another: sizes of all files, content of the small ones, head of the weights."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(directory.rglob("*")):
        if path.suffix not in {".json", ".txt", *_WEIGHT_SUFFIXES} or not path.is_file():
            continue
        digest.update(f"{path.relative_to(directory)}:{path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_FINGERPRINT_BYTES))
    return digest.hexdigest()


# --- an OpenAI-compatible endpoint ----------------------------------------------------------------------------------


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
        self._batch_size = batch_size
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
        starts = range(0, len(texts), self._batch_size)
        vectors = np.concatenate([self._request(list(texts[start : start + self._batch_size])) for start in starts])
        if vectors.shape[1] != self._dimensions:
            raise ConfigError(
                f"embedding.base_url: the endpoint changed from {self._dimensions} to {vectors.shape[1]} dimensions; "
                "restart to rebuild the index"
            )
        return vectors

    def _request(self, texts: list[str]) -> Vectors:
        import httpx

        try:
            response = self._client.post("embeddings", json={"model": self._model, "input": texts})
        except httpx.LocalProtocolError as error:  # its text may hold the header with the key
            raise ConfigError(f"embedding endpoint {self._client.base_url}: {type(error).__name__}") from None
        except httpx.HTTPError as error:
            raise TransientError(f"embedding endpoint {self._client.base_url}: {error!r}") from error
        if response.status_code >= 500 or response.status_code in (408, 429):
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
        return _unit(vectors)


# --- hashing --------------------------------------------------------------------------------------------------------


class HashingEmbedder:
    """Words and their character 3- and 4-grams hashed to signed buckets: no model, no download, numpy only.

    Args:
        dimensions: width of the vectors.
    """

    def __init__(self, dimensions: int = 256) -> None:
        self._dimensions = dimensions
        self._features = lru_cache(maxsize=1 << 14)(self._word_features)

    @property
    def name(self) -> str:
        return f"hashing-1:{self._dimensions}"

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            folded = text.casefold()
            # A text without a single word (only punctuation) is hashed as it stands, so that no vector is zero.
            for word in re.findall(r"\w+", folded) or [folded]:
                vectors[row] += self._features(word)
        return _unit(vectors)

    def _word_features(self, word: str) -> Vectors:
        vector = np.zeros(self._dimensions, dtype=np.float32)
        padded = f"<{word}>"
        grams = sorted({padded[i : i + size] for size in (3, 4) for i in range(len(padded) - size + 1)})
        # All grams together weigh twice the word itself; without statistics of the language, a word's length is
        # the best sign of how much it says (intents of short queries: nearest neighbour right for 0.60, not 0.44).
        gram_weight = max(len(grams), 1) ** -0.5
        for feature, weight in [(f"w:{word}", 0.5), *((f"c:{gram}", gram_weight) for gram in grams)]:
            code = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
            vector[code % self._dimensions] += weight if code >> 31 else -weight
        return vector * np.float32(min(1.0, len(word) / _INFORMATIVE_WORD_CHARS))


def _unit(vectors: Any) -> Vectors:
    """Rows scaled to length 1; a zero row, or one that is not all numbers, becomes the first axis."""
    array = np.array(vectors, dtype=np.float32)
    # One NaN (an endpoint's null) would reach every centre of a consensus.
    array[~np.isfinite(array).all(axis=1)] = 0.0
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    zero = norms[:, 0] == 0
    array[zero, 0] = 1.0
    norms[zero] = 1.0
    return np.asarray(array / norms, dtype=np.float32)
