"""Where an OpenAI-compatible server listens, and what authenticates us there: of every vLLM server, and of the one that
the gateway forwards embeddings to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One server; `name` is what errors, metrics and people call it."""

    name: str
    base_url: str
    """Without a trailing slash and without /v1."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """They authenticate us there."""
    base_model: str = "base"
    """The name under which the server answers with the base model alone."""

    @classmethod
    def at(cls, url: str, api_key: str | None, base_model: str = "base") -> ServerAddress:
        """The server at `url`, named by its host and port; the key is sent as bearer token, None: nothing is."""
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        return cls(urlsplit(url).netloc, url, headers, base_model)
