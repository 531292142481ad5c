"""Settings of the two HTTP fronts: where they listen, their tokens and limits, and what the gateway forwards and keeps.

Owns names and defaults. Every token has a section of its own, so that none opens the other front.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from semievol.config.generation import checked_key, checked_token, checked_url
from semievol.config.method import Section

_TOKEN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
MAX_TOKENS_NAMED = 200
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")


DEFAULT = "default"
"""The name of the one token that every front has (`api.token`, `gateway.token`)."""
NOBODY = "none"
"""Stands where a request has no token's name."""


def _sendable(value: object) -> object:
    return checked_token(value) if isinstance(value, str) else value


def _listened(host: str) -> str:
    if not host.strip():
        raise ValueError("is empty, which would be every address of this machine; write 0.0.0.0 where that is meant")
    if "/" in host or any(map(str.isspace, host)):
        raise ValueError("is no address to listen on; give a name or an IP address alone, as in 127.0.0.1")
    return host


Host: TypeAlias = Annotated[str, AfterValidator(_listened)]
Token: TypeAlias = Annotated[str | None, BeforeValidator(_sendable)]
"""A bearer token, as it comes from a file or the environment: one that no header takes is refused."""


class ServerConfig(Section):
    """A listening HTTP endpoint with a token of its own."""

    host: Host = "127.0.0.1"
    """Address to listen on; 0.0.0.0 inside a container."""
    port: int = Field(ge=0, le=65535)
    """TCP port; 0 picks a free one, written to `endpoints.json` under artifacts.directory (by a process of one role to
    `endpoints-ROLE.json`)."""
    token: Token = Field(default=None, repr=False, min_length=16)
    """Bearer token; set it by environment. None: one is made at first start and kept in a 0600 file."""
    max_body_bytes: int = Field(default=1_048_576, gt=0)
    """Larger requests are refused with 413, packed (gzip, deflate) or unpacked."""
    max_connections: int = Field(default=1_024, gt=0)
    """Connections at once, and never more than a quarter of the file descriptors that the system allows. When all are
    taken, a newcomer replaces the one that has waited longest without a request that has the token; those with one
    stay."""
    max_connections_per_address: int = Field(default=256, gt=0)
    """Of them from one address (of IPv6: one /64 network) that have no request with the token; at most half of all."""
    head_timeout_s: float = Field(default=5.0, gt=0)
    """A request's line and headers have to come within this time, seconds; else the connection is cut."""
    keep_alive_s: float = Field(default=75.0, gt=0)
    """A connection without a request is closed after this, seconds; longer than a proxy in front keeps its own."""
    idle_timeout_s: float = Field(default=60.0, gt=0)
    """A body that does not come within this time is answered 408, seconds; a client that keeps an answer waiting for as
    long, all in all, is cut."""


class ApiConfig(ServerConfig):
    """The admin API with /metrics, /healthz and /readyz."""

    console: bool = True
    """The console at `/`: pages for people, opened by this token through a login form. False: there are none."""
    metrics_are_open: bool = True
    """/metrics answers without the token. Its labels name adapters, and the addresses of replicas."""
    metrics_interval_s: float = Field(default=10.0, gt=0)
    """How often the leader reads what /metrics shows of the state, seconds. A scrape itself asks nothing of it."""

    port: int = Field(default=8321, ge=0, le=65535)
    """TCP port; 0 picks a free one."""


class CaptureConfig(Section):
    """Clients' chat queries as records of the queries topic."""

    share: float = Field(default=0.0, ge=0, le=1)
    """Share of the chat requests that is captured, drawn by a hash of client and text with a key that clients do not
    know. 0: none. Tell your users, and let them opt out with the header `x-semievol-no-capture`."""
    max_chars: int = Field(default=8_000, gt=0)
    """Longer conversations are not captured."""
    queue_size: int = Field(default=1_000, gt=0)
    """Captured queries that wait for the stream; when it is full, new ones are dropped and counted. Clients never wait
    for it."""


class FeedbackConfig(Section):
    """Clients' word on earlier answers; what an operator or the labels topic says outweighs it in any case."""

    enabled: bool = True
    """False: /v1/feedback is refused with 403."""
    token: Token = Field(default=None, repr=False, min_length=16)
    """A token of its own; with it no other token of the gateway opens feedback, nor this one anything else. Set it
    by environment. None: the gateway's tokens open it."""
    trusted: bool = False
    """Whether feedback may be held out for the gate (drawn by a hash with a key that clients do not know), and may be
    about every query that the intake answered, not only about those that the gateway captured."""
    max_per_minute: int = Field(default=60, gt=0)
    """Requests of one client, refused ones included; more are answered 429. A client is the holder of one of
    gateway.tokens, else an address (of IPv6: one /64 network), and has one answer to a question."""
    wait_s: float = Field(default=86_400.0, gt=0)
    """Feedback on a captured query that the intake has not answered yet waits so long for it, seconds; then it is told
    as expired. As long it is known which answers were captured, and what they said."""
    max_waiting: int = Field(default=10_000, gt=0)
    """So much feedback waits at most, a tenth of it of one client; more is answered 429."""


class TokenSettings(Section):
    """One client's token of the gateway, with what it may ask for."""

    secret: Token = Field(default=None, repr=False, min_length=16)
    """The token; set it by environment (SEMIEVOL__GATEWAY__TOKENS__NAME__SECRET, or ..._SECRET_FILE)."""
    requests_at_once: int | None = Field(default=None, gt=0)
    """Requests that run at the same time on one gateway; more are answered 429. A list of prompts counts as as many.
    None: gateway.max_in_flight alone."""
    requests_per_minute: int | None = Field(default=None, gt=0)
    """Requests in a minute on one gateway, as many at a stretch after a pause; more are answered 429 with Retry-After.
    None: no limit."""
    tokens_per_minute: int | None = Field(default=None, gt=0)
    """Tokens of prompts and answers in a minute on one gateway; more are answered 429 with Retry-After. A request takes
    what it may use at most and gives back what it did not, so set max_tokens; one that may use more than this needs
    the whole minute. None: no limit."""
    revoked: bool = False
    """It opens nothing any more, from the next start of the gateway on."""

    @model_validator(mode="after")
    def _opens(self) -> TokenSettings:
        if self.secret is None and not self.revoked:
            raise ValueError("secret: missing; set it by environment, or revoked: true")
        return self


class GatewayConfig(ServerConfig):
    """The OpenAI-compatible front that clients ask."""

    port: int = Field(default=8320, ge=0, le=65535)
    """TCP port; 0 picks a free one."""
    max_in_flight: int = Field(default=256, gt=0)
    """Requests admitted at once; more are answered 429."""
    max_n: int = Field(default=16, gt=0)
    """Most answers (`n`, `best_of`) that one request may ask for."""
    max_tokens: int = Field(default=4_096, gt=0)
    """Most tokens that one request may ask for."""
    timeout_s: float = Field(default=300.0, gt=0)
    """From admission to the last byte, attempts on other replicas included; then 504, or an error event in a stream."""
    idle_timeout_s: float = Field(default=60.0, gt=0)
    """A replica that sends nothing for so long before or within a stream is given up, and so is a client that does not
    finish its request (408), or keeps an answer waiting for so long, all in all. Answers that are not streamed come
    whole: they have until timeout_s."""
    connect_timeout_s: float = Field(default=2.0, gt=0)
    """A replica that does not take the connection within this time is given up for another."""
    retries: int = Field(default=2, ge=0)
    """Attempts on other replicas, with the same adapter version, when one fails before the client got a byte."""
    replica_wait_s: float = Field(default=5.0, ge=0)
    """While no replica can answer with the version of a request, it waits so long for one; then 503."""
    drain_s: float = Field(default=20.0, ge=0)
    """What running requests get to finish after a stop; keep it below stop_deadline_s. Those that come within the first
    five seconds are answered too, each on its connection's last turn; later nobody is let in."""
    cors_origins: tuple[str, ...] = ()
    """Origins (https://app.example.org) whose pages may ask from a browser; "*": all. Empty: none. A page that asks
    holds the token, so that everybody who may open the page has it."""
    embeddings_url: str | None = None
    """An OpenAI-compatible server for /v1/embeddings, without /v1. None: a replica of the served model is asked."""
    embeddings_token: str | None = Field(default=None, repr=False)
    """Bearer token of that server; set it by environment."""
    capture: CaptureConfig = CaptureConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    tokens: dict[str, TokenSettings] = Field(default_factory=dict)
    """Further tokens by the name of their client (lower case), which stands in metrics and logs. The name of
    gateway.token is `default`; it has no limits of its own."""

    @field_validator("tokens")
    @classmethod
    def _told_apart(cls, value: dict[str, TokenSettings]) -> dict[str, TokenSettings]:
        for name in value:
            if not _TOKEN_NAME.fullmatch(name) or name in (DEFAULT, NOBODY):
                raise ValueError(
                    f"{name[:64]!r} is no name for a token; take lower-case letters, digits, -, _ (not {DEFAULT}, "
                    f"{NOBODY})"
                )
        if len(value) > MAX_TOKENS_NAMED:
            raise ValueError(f"more than {MAX_TOKENS_NAMED} tokens; each is a series in the metrics")
        secrets = [token.secret for token in value.values() if token.secret is not None]
        if len(set(secrets)) != len(secrets):
            raise ValueError("two of them have the same secret; give each its own")
        return value

    @model_validator(mode="after")
    def _default_is_another(self) -> GatewayConfig:
        if self.token is not None and any(token.secret == self.token for token in self.tokens.values()):
            raise ValueError("tokens: one has the secret of gateway.token; give each its own")
        if (own := self.feedback.token) is not None and own in self.secrets(self.token or "").values():
            raise ValueError("feedback.token: another token of the gateway has the same secret; give each its own")
        return self

    def secrets(self, default: str) -> dict[str, str]:
        """By name the tokens that open the gateway; `default` is gateway.token, or what was made in its place."""
        valid = {name: each.secret for name, each in self.tokens.items() if not each.revoked}
        return {DEFAULT: default, **{name: secret for name, secret in valid.items() if secret is not None}}

    @field_validator("embeddings_token")
    @classmethod
    def _embeddings_key(cls, value: str | None) -> str | None:
        return checked_key(value)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; give scheme, host and port alone, or *")
        return value

    @field_validator("embeddings_url")
    @classmethod
    def _origin(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value.startswith(("http://", "https://")):
            raise ValueError("give an address that starts with http:// or https://")
        if "@" in value:
            raise ValueError("an address must hold no password; set gateway.embeddings_token by environment")
        return checked_url(value).removesuffix("/v1")
