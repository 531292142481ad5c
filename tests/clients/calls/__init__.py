"""Every call that is made, by the client that makes it. To list them, no client library is needed: each is imported
where it is used.

A call returns what its library gave it, whose shape is compared; it asserts what the fields that it sent must bring
about, so that an engine which ignores one is found out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

PATIENCE_S = 120.0
"""Of every client; the machine may be busy."""
MODULES = (
    *("openai_chat", "openai_drawing", "openai_forms", "openai_streams", "openai_completions", "openai_responses"),
    *("openai_errors", "by_langchain", "by_litellm", "by_pydantic_ai", "by_instructor", "by_llama_index", "by_curl"),
    "by_node",
)
ENVIRONMENTS = {"openai-python 2": "earlier", "instructor": "earlier", "llama-index": "earlier"}
"""Clients that do not go with the newest openai-python; all others are in the environment `newest`."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where to ask. `url` ends with /v1."""

    url: str
    token: str
    model: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    client: the library, as the table names it.
    what: of the call, as the table names it; unique among the client's.
    refused: the field for which the generator in this process refuses, though vLLM answers; None: both do the same.
    """

    client: str
    what: str
    make: Callable[[Gateway], object]
    refused: str | None = None

    @property
    def name(self) -> str:
        return f"{self.client}: {self.what}"

    @property
    def by_node(self) -> bool:
        """Whether it needs Node.js."""
        return self.client.endswith("for Node.js")

    @property
    def environment(self) -> str:
        return ENVIRONMENTS.get(self.client, "newest")


_CALLS: list[Call] = []


def call(
    client: str, what: str, *, refused: str | None = None
) -> Callable[[Callable[[Gateway], object]], Callable[[Gateway], object]]:
    """Put a function on the list."""

    def listed(make: Callable[[Gateway], object]) -> Callable[[Gateway], object]:
        _CALLS.append(Call(client, what, make, refused))
        return make

    return listed


def all_calls() -> list[Call]:
    """All of them, in the order of the table, whichever of their modules was imported first."""
    for module in MODULES:
        import_module(f"{__name__}.{module}")
    return sorted(_CALLS, key=lambda each: MODULES.index(each.make.__module__.rpartition(".")[2]))
