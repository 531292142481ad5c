"""Where an OpenAI-compatible server listens, and what authenticates us there.

Of every vLLM server, of an API, of an endpoint for embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from semievol.config.generation import checked_key
from semievol.errors import ConfigError

_BEARER = "Bearer "
_SHORTEST_SECRET = 8
"""Shorter keys are placeholders such as `none`, and words of messages."""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One server; `name` is what errors, metrics and people call it."""

    name: str
    base_url: str
    """What paths are put behind: without a trailing slash; a vLLM server's also without /v1."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """They authenticate us there."""
    base_model: str = "base"
    """The name under which the server answers with the base model alone."""

    @classmethod
    def at(
        cls,
        url: str,
        api_key: str | None,
        base_model: str = "base",
        *,
        name: str | None = None,
        key_setting: str = "api_key",
    ) -> ServerAddress:
        """The server at `url`.

        Args:
            url: with or without a trailing slash.
            api_key: is sent as bearer token, None: nothing is.
            base_model: see there.
            name: None: host and port.
            key_setting: what an error about the key names.

        Raises:
            ConfigError: the key cannot stand in a header, and the text does not show it; or the URL is none.
        """
        try:
            key = checked_key(api_key)
        except ValueError as error:
            raise ConfigError(f"{key_setting}: {error}") from None
        headers = {} if key is None else {"Authorization": _BEARER + key}
        try:
            host, _ = urlsplit(url).netloc, urlsplit(url).port
        except ValueError as error:
            raise ConfigError(f"{url} is no address ({error}); write one like http://host:8000") from None
        return cls(name or host, url.rstrip("/"), headers, base_model)

    def without_key(self, text: str) -> str:
        """What the server says, as it may be shown: some repeat the key that they refuse."""
        for value in self.headers.values():
            secret = value.removeprefix(_BEARER)
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "[key]")
        return text
