"""Errors of both HTTP fronts as JSON, in OpenAI's shape, which clients of both understand.

Invariant: an error of a front is `{"error": {"message", "type", "param", "code"}}`, whoever found it: a handler, the
router or the library below. `param` is the field that a message begins with, as messages here do.
"""

from __future__ import annotations

import re

from aiohttp import web

from semievol.plain_lines import one_line

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_FIELD = re.compile(r"([A-Za-z_]\w*(?:\.\w+|\[\d+\])*): ")
_NO_FIELDS = frozenset({"body", "model_not_found"})
_KEPT_HEADERS = ("Allow", "Retry-After")


def error(status: int, code: str, message: str, param: str | None = None) -> web.Response:
    """An error as an answer."""
    return web.json_response(error_body(status, code, message, param), status=status)


def retry_later(response: web.Response, seconds: int = 1) -> web.Response:
    """Tell the client when it is worth asking again."""
    response.headers["Retry-After"] = str(seconds)
    return response


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, dict[str, str | None]]:
    """What an error says.

    Args:
        status: of the answer.
        code: a word that programs may look at; where a field is at fault, `bad_request` becomes `invalid_value`.
        message: for people.
        param: the field at fault. None: the one that the message begins with, where a client is at fault.
    """
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    param = None if param is None else one_line(param)
    if param is None and status in (400, 404, 422) and (found := _FIELD.match(message)):
        param = None if found[1] in _NO_FIELDS else found[1]
    if code == "bad_request" and param is not None:
        code = "invalid_value"
    return {"error": {"message": one_line(message), "type": kind, "param": param, "code": code}}


def http_error(refused: web.HTTPException) -> web.Response:
    """What a handler, or the router (404, 405 with `Allow`), raised."""
    reason = refused.reason.lower().replace(" ", "_")
    response = error(refused.status, reason, _text(refused))
    for name in _KEPT_HEADERS:
        if name in refused.headers:
            response.headers[name] = refused.headers[name]
    return response


def _text(refused: web.HTTPException) -> str:
    """The message; the library's own begin with the status."""
    text = (refused.text or "").removeprefix(f"{refused.status}: ")
    if isinstance(refused, web.HTTPMethodNotAllowed):
        return f"{refused.method} is not answered here; use {refused.headers.get('Allow', 'another method')}"
    if isinstance(refused, web.HTTPNotFound) and text in ("", refused.reason):
        return "there is no such address here"
    return text or refused.reason
