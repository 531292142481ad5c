"""Settings of the engine that answers prompts: in this process, vLLM servers, or any OpenAI-compatible endpoint.

Owns what runs on files and the daemon mean by `generation`; the daemon adds what serving needs.
Invariant: no imports beyond pydantic, so that reading a configuration loads no driver.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator, model_validator

from semievol.config.section import Section


class GenerationConfig(Section):
    """The engine that answers."""

    kind: Literal["local", "vllm", "openai"] = "local"
    """local: the model runs in this process. vllm: one or more vLLM servers, which load adapters while they run.
    openai: any OpenAI-compatible chat endpoint that loads none; its adapters are fine-tuned models that it names."""
    max_batch: int = Field(default=32, gt=0)
    """local only: prompts per forward pass."""
    cache_tokens: int | None = Field(default=None, ge=256)
    """local only: tokens that the caches of all running prompts and answers may hold together. What can never fit is
    refused. None: a quarter of the memory, 65,536 at the most."""
    threads: int | None = Field(default=None, gt=0)
    """local only: CPU threads. None: all cores; in runs on files training.threads."""
    replicas: tuple[str, ...] = ()
    """vllm only: the servers' addresses, each `http://host:port`."""
    base_name: str = Field(default="base", min_length=1)
    """vllm only: the servers' --served-model-name, under which they answer with the base model alone."""
    base_url: str | None = None
    """openai only: the endpoint up to and including /v1, `https://api.openai.com/v1`."""
    model: str | None = Field(default=None, min_length=1)
    """openai: the model that answers where no adapter is asked for. None: model.name. In `models` also for local: a hub
    name or directory."""
    samples_in_one_request: bool = True
    """openai only: ask for all samples of a prompt at once (`n`). false: one request a sample, each with the prompt,
    for endpoints that know no `n`."""
    api_key: str | None = Field(default=None, repr=False)
    """vllm and openai: the servers' --api-key, the endpoint's key; set it by environment."""
    concurrency: int = Field(default=32, gt=0)
    """vllm and openai: most labelling requests at a time on one replica or at the endpoint. It begins with 4 and finds
    by itself how many a server manages; what clients ask is not held back by it."""
    timeout_s: float = Field(default=120.0, gt=0)
    """vllm and openai: seconds that a server gets for one request, from when it is sent. After that it gets fewer at a
    time and, while it answers a health check, as long again; then the answer is late. A server that answers no health
    check gets nothing, and another one its requests. So long may all servers be away, too, before a call fails."""

    @field_validator("replicas")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        checked = tuple(checked_address(each, "generation.replicas") for each in value)
        if len(set(checked)) != len(checked):
            raise ValueError("generation.replicas: an address is listed twice; remove one")
        return checked

    @field_validator("base_url")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value)

    @field_validator("api_key")
    @classmethod
    def _key(cls, value: str | None) -> str | None:
        return checked_key(value)

    @model_validator(mode="after")
    def _one_source(self) -> GenerationConfig:
        if self.kind == "vllm" and not self.replicas:
            raise ValueError(
                "kind vllm wants replicas, a list of addresses like http://host:8000 (a run on files starts no server "
                "and resolves no name: launch and dns are the daemon's)"
            )
        if self.kind == "openai" and self.base_url is None:
            raise ValueError("kind openai wants base_url, the endpoint up to and including /v1")
        if self.kind != "vllm" and self.replicas:
            raise ValueError("replicas: is for kind vllm; set kind: vllm, or remove it")
        self._check_endpoint()
        return self

    def _check_endpoint(self) -> None:
        if self.kind != "openai" and self.base_url is not None:
            raise ValueError("base_url: is for kind openai; set kind: openai, or remove it")
        if self.kind == "vllm" and self.model is not None:
            raise ValueError("model: is for kind openai; the name that vLLM serves its model under is base_name")


def checked_address(value: str, key: str) -> str:
    """An address `http://host:port` without a trailing slash.

    Raises:
        ValueError: it is none, or holds a password.
    """
    parts = _parts(value, f"{key}: ")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(f"{key}: {value!r} is not an address like http://host:8000 (no path, no /v1)")
    if parts.username or parts.password:
        raise ValueError(f"{key}: an address must hold no password; set generation.api_key by environment")
    return value.rstrip("/")


def checked_url(value: str) -> str:
    """The URL of an API, without a trailing slash.

    Raises:
        ValueError: it is none, or holds a password.
    """
    parts = _parts(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ValueError(f"{value!r} is not a URL like https://api.openai.com/v1")
    if parts.username or parts.password:
        raise ValueError("a URL must hold no password; set api_key by environment")
    return value.rstrip("/")


def _parts(value: str, named: str = "") -> SplitResult:
    try:
        parts = urlsplit(value)
        port = parts.port  # is read only when it is asked for
    except ValueError:  # its text may show a part of a password that holds a slash
        raise ValueError(f"{named}the address has no port from 1 to 65535; write one like http://host:8000") from None
    if port == 0:
        raise ValueError(f"{named}nothing listens on port 0; give one from 1 to 65535")
    return parts


def checked_token(value: str | None) -> str | None:
    """A bearer token that clients can send: as `checked_key`, and without white space within.

    Raises:
        ValueError: it holds some, or nothing is left.
    """
    token = checked_key(value)
    if value is not None and token is None:
        raise ValueError("is empty; give a token, or leave it out and one is made")
    if token is not None and len(token.split()) > 1:
        raise ValueError("holds white space, which no client can send within a bearer token; take another")
    return token


def checked_key(value: str | None) -> str | None:
    """A key as it can stand in a header: without white space around it, which files and variables easily get.

    Returns:
        None where nothing is left.

    Raises:
        ValueError: it holds characters that no header takes; the text does not show it, as the HTTP client's would.
    """
    key = (value or "").strip()
    if not all(" " <= character <= "~" for character in key):
        raise ValueError("holds characters that cannot stand in an HTTP header (a line break, an accent); copy it anew")
    return key or None
