"""Chooses the embedder that the configuration names: here another one is added.

Invariants of all of them: vectors have unit length, the same text gives the same vector, and `name` changes with the
model, so that an index knows when it is stale. A local model never touches the network.
"""

from __future__ import annotations

from semievol.config.method import EmbeddingConfig
from semievol.errors import ConfigError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.embedding.openai import OpenAIEmbedder
from semievol.examples.embedding.sentence_transformer import SentenceTransformerEmbedder
from semievol.protocols import Embedder


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
