"""Headers around every answer of the gateway: the request's id, and what browsers of other origins may do (CORS).

Owns no route and no token. Invariants: every answer, also a refusal and a stream, carries `x-request-id`; an origin
that is not in `gateway.cors_origins` gets none of CORS's headers, so that its browser keeps the answer from it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any

from aiohttp import hdrs, web

from semievold.gateway.call import ADAPTER_HEADER, QUERY_ID_HEADER, REPLICA_HEADER

REQUEST_ID_HEADER = "x-request-id"
_SANE_ID = re.compile(r"[\w.:=+/@-]{1,128}", re.ASCII)
_HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]{1,64}", re.ASCII)
NOT_CAPTURED_HEADER = "x-semievol-not-captured"
NOT_CAPTURED = web.RequestKey("not_captured", str)
"""In a request, why its query was not captured, though it was drawn."""
RATE_LIMITS = web.RequestKey("rate_limits", dict[str, str])
"""In a request, what is left of the minute of its token, as headers."""
_RATE_LIMITS = [
    f"x-ratelimit-{each}-{what}" for what in ("requests", "tokens") for each in ("limit", "remaining", "reset")
]
_EXPOSED = ", ".join(
    (
        REQUEST_ID_HEADER,
        ADAPTER_HEADER,
        REPLICA_HEADER,
        QUERY_ID_HEADER,
        NOT_CAPTURED_HEADER,
        "retry-after",
        *_RATE_LIMITS,
    )
)
_PREFLIGHT_AGE_S = 600
_ID_BYTES = 16


class AnswerHeaders:
    """Puts the headers on; made for one app."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origins)
        self._random = b""

    async def put(self, request: web.Request, response: web.StreamResponse) -> None:
        """As aiohttp's signal `on_response_prepare`: before the first byte of any answer."""
        given = request.headers.get(REQUEST_ID_HEADER)
        if given is None or _SANE_ID.fullmatch(given) is None:
            given = self._next_id()
        response.headers[REQUEST_ID_HEADER] = given
        if NOT_CAPTURED in request:
            response.headers[NOT_CAPTURED_HEADER] = request[NOT_CAPTURED]
        if RATE_LIMITS in request:
            response.headers.update(request[RATE_LIMITS])
        if not self._origins:
            return
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if self._allowed(request):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED

    @web.middleware
    async def preflight(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Browsers ask, without a token, before they send one: answered here for the origins that may."""
        preflight = request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        if not preflight or not self._allowed(request):
            response: web.StreamResponse = await handler(request)
            return response
        names = [name.strip() for name in request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "").split(",")]
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST",
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ", ".join(name for name in names if _HEADER_NAME.fullmatch(name)),
                hdrs.ACCESS_CONTROL_MAX_AGE: str(_PREFLIGHT_AGE_S),
            },
        )

    def _next_id(self) -> str:
        """Random ones are fetched for many requests at once: each time is a system call."""
        if not self._random:
            self._random = secrets.token_bytes(_ID_BYTES * 256)
        id_, self._random = self._random[:_ID_BYTES], self._random[_ID_BYTES:]
        return f"req_{id_.hex()}"

    def _allowed(self, request: web.Request) -> bool:
        origin = request.headers.get(hdrs.ORIGIN)
        return origin is not None and ("*" in self._origins or origin in self._origins)
