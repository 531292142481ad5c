"""What a server answered: its status as one of our errors, its body as JSON, the wait that it asks for.

Owns what is read out of any answer, whoever asked. Owns no consequence: whether a refusal is the prompt's, the
setting's or the adapter's fault is the client's to say. Invariants: every text that leaves here can be encoded as
UTF-8; what is said in an error holds no key.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx

from semievol.http.errors import (
    BusyError,
    KeyRefusedError,
    OddAnswerError,
    OverloadedError,
    RefusedError,
    ServerDownError,
)
from semievol.http.server_address import ServerAddress
from semievol.http.wire_text import said, whole_text

_LONGEST_WAIT_S = 3600.0
"""No server is left alone for longer, whatever it asks for: `Retry-After: inf` is a number, too."""
_BAD_KEY = (401, 403)
_TOO_MUCH = (429, 503)
_RETRIED = (408, 409, 425)
_NEVER_BY_ITSELF = "insufficient_quota"
_BEHIND = 502
# Half of a surrogate pair, as JSON escapes it or as bytes that are nearly UTF-8. Whole pairs are found too, and stay.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")


class Answer:
    """One answer of one server."""

    def __init__(self, server: ServerAddress, path: str, response: httpx.Response) -> None:
        self._server = server
        self._path = path
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def text(self) -> str:
        return self._response.text

    @property
    def message(self) -> str:
        """What the server says in an error, shortened."""
        return self._said(self._error())

    @property
    def wait_s(self) -> float:
        """For how long `Retry-After` asks to be left alone, seconds; 0 where it asks for nothing."""
        return _wait_s(self._response.headers.get("Retry-After", ""))

    def check(self) -> Self:
        """This answer, if it is one.

        Raises:
            BusyError: not now (408, 409, 425).
            KeyRefusedError: 401, 403.
            OverloadedError: 429, 503.
            RefusedError: every other 4xx, and a 429 that waiting does not help.
            ServerDownError: every other 5xx.
        """
        if self.status >= 400:
            raise self._failure(self.status, self._error())
        return self

    def object(self, wanted: str | None = None) -> dict[str, Any]:
        """The JSON object that it holds; an answer is checked first.

        Routers and gateways put what went wrong behind them into an answer of their own: where there is an error and no
        `wanted`, it is raised as if the status had said it. None: an `error` is a part like others.

        Raises:
            OddAnswerError: it holds none.
            Others: see `check`.
        """
        self.check()
        if self._response.is_redirect:
            to = self._server.without_key(said(self._response.headers.get("Location", "")))
            raise OddAnswerError(f"{self._place} redirects to {to}")
        content = self._response.content
        try:
            found = json.loads(content)
            if _HALF.search(content):
                found = _whole(found)
        except (ValueError, RecursionError) as error:
            raise OddAnswerError(f"{self._place} does not answer in JSON") from error
        if not isinstance(found, dict):
            raise OddAnswerError(f"{self._place} does not answer with a JSON object")
        if wanted is not None and found.get("error") and wanted not in found:
            inner = _error_in(found)
            code = inner.get("code")
            raise self._failure(code if isinstance(code, int) and 400 <= code < 600 else _BEHIND, inner)
        return found

    @property
    def _place(self) -> str:
        return f"{self._server.name}{self._path}"

    def _error(self) -> Mapping[str, Any]:
        try:
            return _error_in(json.loads(self._response.content))
        except (ValueError, RecursionError):
            return {}

    def _said(self, error: Mapping[str, Any]) -> str:
        message = error.get("message") or self._response.text
        return self._server.without_key(said(message)) or "no reason given"

    def _failure(self, status: int, error: Mapping[str, Any]) -> BusyError | RefusedError:
        name, message = self._server.name, self._said(error)
        code, param = (str(error.get(key) or "") for key in ("code", "param"))
        if status in _BAD_KEY:
            return KeyRefusedError(name, status, message, code, param)
        text = f"{name}: HTTP {status}, {message}"
        if status in _TOO_MUCH and code != _NEVER_BY_ITSELF:
            return OverloadedError(text, wait_s=self.wait_s, status=status)
        if status >= 500:
            return ServerDownError(text, wait_s=self.wait_s, status=status)
        if status in _RETRIED:
            return BusyError(text, wait_s=self.wait_s, status=status)
        return RefusedError(name, status, message, code, param)


def _error_in(body: Any) -> Mapping[str, Any]:
    """What a body tells of an error: OpenAI's form, or one with its parts at the top, or a text alone."""
    error = body.get("error", body) if isinstance(body, dict) else body
    return error if isinstance(error, dict) else {"message": error}


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {whole_text(key): _whole(each) for key, each in value.items()}
    return value


def _wait_s(asked: str) -> float:
    """Seconds, from a number of them or a date."""
    try:
        wait_s = float(asked)
    except ValueError:
        try:
            wait_s = (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # no date, or one without a zone
            return 0.0
    return 0.0 if math.isnan(wait_s) else min(max(0.0, wait_s), _LONGEST_WAIT_S)
