"""An OpenAI-compatible API over HTTP: requests, what authenticates them, and what each refusal means.

Owns one connection pool, the retries of what may be retried, and the translation of errors. Owns not what is asked:
see engines.openai and fine_tuning. Invariant: whatever the API does, the caller sees one of our errors, whose text
names the API; the key is in none of them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any, Self

import httpx

from semievol.config.generation import checked_key
from semievol.errors import ConfigError, DataError, SemiEvolError, TransientError
from semievol.http.wire_text import asked_wait_s, said

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_NEVER_BY_ITSELF = "insufficient_quota"
_CHAT = "/chat/completions"
_RETRIED = (408, 409, 425, 429)


class BusyError(TransientError):
    """No answer now (429, 5xx, no connection); the API may have said how long to wait, in seconds.

    `status` None: it said nothing at all.
    """

    def __init__(self, text: str, wait_s: float = 0.0, status: int | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s
        self.status = status


class RefusedError(SemiEvolError):
    """The API refuses the request itself (4xx); `message`, `code` and `param` are its own."""

    def __init__(self, api: str, status: int, error: Mapping[str, Any]) -> None:
        self.status = status
        self.message = said(error.get("message") or "no reason given")
        self.code = str(error.get("code") or "")
        self.param = str(error.get("param") or "")
        super().__init__(f"{api}: HTTP {status}, {self.message}")


class NotJsonError(ConfigError):
    """An answer with status 200 that is no JSON."""


class OpenAIClient:
    """Speaks to one API; one event loop. `async with` closes it."""

    def __init__(self, base_url: str, api_key: str | None, *, key_setting: str, connections: int = 64) -> None:
        """Open nothing yet.

        Args:
            base_url: up to and including /v1.
            api_key: sent as bearer token; None: nothing is sent.
            key_setting: the setting that an error about the key names.
            connections: at a time.

        Raises:
            ConfigError: the key cannot stand in a header.
        """
        try:
            key = checked_key(api_key)
        except ValueError as error:
            raise ConfigError(f"{key_setting}: {error}") from None
        self.base_url = base_url.rstrip("/")
        self._key_setting = key_setting
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(headers=headers, limits=limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, method: str, path: str, *, patience_s: float, timeout_s: float = 60.0, **content: Any) -> Any:
        """The JSON of an answer; `content` is httpx's `json`, `data`, `files`, `params`.

        Args:
            method: GET or POST.
            path: after base_url, `/models`.
            patience_s: for how long it is asked again while it is busy; 0: once.
            timeout_s: what one attempt gets.
            content: of the request.

        Raises:
            BusyError: no answer within `patience_s`.
            ConfigError: it wants another key, or the request cannot be sent at all.
            DataError: a text cannot be sent.
            RefusedError: it refuses the request.
        """
        deadline = time.monotonic() + patience_s
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                return await self._once(method, path, timeout_s, content)
            except BusyError as busy:
                pause_s = max(busy.wait_s, wait_s * random.uniform(0.5, 1.0))
                if time.monotonic() + pause_s >= deadline:
                    raise
                await asyncio.sleep(pause_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    async def _once(self, method: str, path: str, timeout_s: float, content: Mapping[str, Any]) -> Any:
        try:
            response = await self._http.request(method, self.base_url + path, timeout=timeout_s, **content)
        except UnicodeEncodeError:
            raise DataError("messages: a text holds half of a surrogate pair, which no encoding takes") from None
        except httpx.TimeoutException as error:
            raise BusyError(f"{self.base_url}: no answer within {timeout_s:.0f} s") from error
        except httpx.LocalProtocolError as error:
            # Asked again it would fail again; its text, and the traceback of its cause, hold the header with the key.
            raise ConfigError(f"{self.base_url}: the request cannot be sent ({type(error).__name__})") from None
        except httpx.HTTPError as error:
            raise BusyError(f"{self.base_url}: {type(error).__name__} {error}".rstrip()) from error
        status = response.status_code
        if status in (401, 403):
            variable = f"SEMIEVOL__{self._key_setting.replace('.', '__').upper()}"
            raise ConfigError(f"{self._key_setting}: {self.base_url} wants another key (HTTP {status}); set {variable}")
        if status >= 400:
            raise self._refusal(status, _error_of(response), response)
        try:
            content = response.json()
        except (ValueError, RecursionError) as error:
            raise NotJsonError(f"{self.base_url}{path} does not answer in JSON; does base_url end in /v1?") from error
        if path == _CHAT and isinstance(content, dict) and content.get("error") and "choices" not in content:
            # Routers and gateways put what went wrong behind them into an answer of their own.
            inner = _error_in(content)
            code = inner.get("code")
            raise self._refusal(code if isinstance(code, int) and 400 <= code < 600 else 502, inner, response)
        return content

    def _refusal(self, status: int, error: Mapping[str, Any], response: httpx.Response) -> BusyError | RefusedError:
        refused = RefusedError(self.base_url, status, error)
        if status >= 500 or (status in _RETRIED and refused.code != _NEVER_BY_ITSELF):
            busy = BusyError(str(refused), asked_wait_s(response), status)
            busy.__cause__ = refused
            return busy
        return refused


def _error_of(response: httpx.Response) -> Mapping[str, Any]:
    try:
        return _error_in(response.json())
    except (ValueError, RecursionError):
        return {"message": response.text}


def _error_in(body: Any) -> Mapping[str, Any]:
    error = body.get("error", body) if isinstance(body, dict) else body
    return error if isinstance(error, dict) else {"message": error}
