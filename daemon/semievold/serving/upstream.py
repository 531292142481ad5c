"""An OpenAI-compatible server, as the gateway forwards to it and the replica set asks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Upstream:
    """One OpenAI-compatible server. `base_url` has no trailing slash and no /v1; `headers` authenticate us there."""

    name: str
    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    base_model: str = "base"
    """The name under which the server answers with the base model alone."""
