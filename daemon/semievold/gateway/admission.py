"""Who comes in at the gateway: how many requests at once, and what one may ask for.

Owns the count of requests in flight and the checks of a body before anything is bound to it; its size is limited in
`semievold.web.body_limits`. Invariant: what was admitted is counted until it ends.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from aiohttp import web

from semievold.config.fronts import GatewayConfig
from semievold.gateway.call import LIMIT_NAMES
from semievold.gateway.quotas import Quotas, Reservation, requests_in
from semievold.gateway.usage import CHARS_A_TOKEN
from semievold.web.body_limits import read_json
from semievold.web.errors import error, retry_later

MAX_LOGPROBS = 262_144
"""Log-probabilities that one answer may hold: some 100 bytes each, read and written in the loop that serves all."""
_ASK_FOR_FIGURES = frozenset(("top_logprobs", "logprobs", "prompt_logprobs"))
_FIGURES = ("n", "best_of", *LIMIT_NAMES, "top_logprobs", "logprobs", "prompt_logprobs")


class Admission:
    """Lets requests in."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._quotas = Quotas(config.tokens, time.monotonic)
        self._in_flight = 0
        most = dict.fromkeys(("n", "best_of"), config.max_n)
        most |= dict.fromkeys(("max_tokens", "max_completion_tokens", "min_tokens"), config.max_tokens)
        self._most = {**most, "max_output_tokens": config.max_tokens}

    def full(self, holder: str, count: int = 1, tokens: int = 0) -> web.Response | Reservation:
        """The answer where there is no room for `count` requests more of a token's holder, of up to `tokens` in all;
        else what they have taken of its minute.

        Raises:
            web.HTTPBadRequest: there never is room for so many at once.
        """
        largest = min(self._quotas.largest(holder) or self._config.max_in_flight, self._config.max_in_flight)
        if count > largest:
            raise web.HTTPBadRequest(text=f"prompt: a list of {count} counts as {count} requests; send up to {largest}")
        if self._in_flight + count > self._config.max_in_flight:
            return retry_later(error(429, "busy", f"{self._in_flight} requests are in flight; try again"))
        return self.excess(holder, count, tokens)

    def excess(self, holder: str, count: int = 1, tokens: int = 0) -> web.Response | Reservation:
        """The answer where the token's holder asks for more than its limits; else what is taken of its minute."""
        excess = self._quotas.excess(holder, count, tokens)
        if isinstance(excess, Reservation):
            return excess
        message = f"{excess.reason}; try again in {excess.retry_after_s} s"
        return retry_later(error(429, "rate_limit_exceeded", message), excess.retry_after_s)

    def metered(self, holder: str) -> bool:
        """Whether the tokens of the holder's requests are counted."""
        return self._quotas.metered(holder)

    def rate_headers(self, holder: str) -> dict[str, str]:
        """What is left of the holder's minute."""
        return self._quotas.headers(holder)

    def counted(self, holder: str, count: int = 1) -> AbstractContextManager[None]:
        """So many requests of a token's holder are in flight in the block."""
        return _Counted(self, holder, count)

    def began(self, holder: str, count: int) -> None:
        """See `counted`."""
        self._in_flight += count
        self._quotas.began(holder, count)

    def ended(self, holder: str, count: int) -> None:
        """See `counted`."""
        self._quotas.ended(holder, count)
        self._in_flight -= count

    async def read_object(self, request: web.Request) -> dict[str, Any]:
        """The body, as `read_json` has it.

        Raises:
            web.HTTPException: it is late, no JSON object, or sent as something else.
        """
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="Content-Type: send application/json")
        body = await read_json(request)
        if not isinstance(body, dict):
            raise web.HTTPBadRequest(text="body: not a JSON object")
        return body

    def check(self, body: Mapping[str, Any], body_bytes: int = 0) -> None:
        """Whether one request, of so many bytes, may ask for so much.

        Raises:
            web.HTTPBadRequest: more answers or tokens than `max_n` and `max_tokens` allow, more figures than
                MAX_LOGPROBS, or `stream` is no truth.
        """
        if not isinstance(body.get("stream"), (bool, type(None))):
            raise web.HTTPBadRequest(text="stream: not true or false")
        for name, limit in self._most.items():
            value = body.get(name)
            if value is None:
                continue
            lowest = 0 if name == "min_tokens" else 1
            if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= limit:
                raise web.HTTPBadRequest(text=f"{name}: not a whole number from {lowest} to {limit}")
        self._check_logprobs(body, body_bytes)

    def _check_logprobs(self, body: Mapping[str, Any], body_bytes: int) -> None:
        if _ASK_FOR_FIGURES.isdisjoint(body):
            return
        asked = {name: body.get(name) for name in _FIGURES}
        most = {name: value for name, value in asked.items() if isinstance(value, int)}
        field = "top_logprobs" if most.get("top_logprobs") else "logprobs"
        top = 0 if body.get(field) is True else most.get(field, 0)
        if top > 0 or body.get("logprobs") is True:
            answers = max(most.get("n", 1), most.get("best_of", 1)) * requests_in(body)
            limits = [most[name] for name in LIMIT_NAMES if name in most]
            figures = answers * max(limits, default=self._config.max_tokens) * (top + 1)
            if figures > MAX_LOGPROBS:
                why = f"n x max_tokens x ({field} + 1) is {figures}, more than {MAX_LOGPROBS}"
                raise web.HTTPBadRequest(text=f"{field}: {why}; ask for fewer answers, tokens or logprobs")
        figures = body_bytes // CHARS_A_TOKEN * (most.get("prompt_logprobs", -1) + 1)
        if figures > MAX_LOGPROBS:
            why = f"tokens of the prompt (about) x (prompt_logprobs + 1) is {figures}, more than {MAX_LOGPROBS}"
            raise web.HTTPBadRequest(text=f"prompt_logprobs: {why}; send a shorter prompt, or ask for fewer")


class _Counted:
    """What `counted` gives. A class, for a generator would cost each request several times as much."""

    __slots__ = ("_admission", "_count", "_holder")

    def __init__(self, admission: Admission, holder: str, count: int) -> None:
        self._admission, self._holder, self._count = admission, holder, count

    def __enter__(self) -> None:
        self._admission.began(self._holder, self._count)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.ended(self._holder, self._count)
