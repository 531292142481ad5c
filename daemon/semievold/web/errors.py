"""Errors of both HTTP fronts as JSON, in OpenAI's shape, which clients of both understand."""

from __future__ import annotations

from aiohttp import web

from semievol.plain_lines import one_line


def error(status: int, code: str, message: str) -> web.Response:
    """An error as an answer."""
    return web.json_response(error_body(status, code, message), status=status)


def error_body(status: int, code: str, message: str) -> dict[str, dict[str, str | None]]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": one_line(message), "type": kind, "param": None, "code": code}}
