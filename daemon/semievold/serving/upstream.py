"""Where an admitted request goes: one healthy replica that serves one adapter version.

Owns the protocol between the gateway, which forwards, and the replica set, which knows who is healthy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Upstream:
    """One OpenAI-compatible server. `base_url` has no trailing slash and no /v1; `headers` authenticate us there."""

    name: str
    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    base_model: str = "base"
    """The name under which the server answers with the base model alone."""


class ReplicaPool(Protocol):
    """Healthy replicas by the adapter version that they were attested for."""

    def lend(self, adapter: str | None, *, avoid: Collection[str] = ()) -> AbstractAsyncContextManager[Upstream]:
        """The least busy healthy replica attested for `adapter` (None: the base model), counted as busy in the block.

        `avoid` names replicas that just failed this request; they are taken only when there is no other.

        Raises:
            TransientError: no replica can answer with this adapter now.
        """
        ...

    def failed(self, name: str, reason: str) -> None:
        """The replica did not answer: no new request goes there until it answers its health check again."""
        ...
