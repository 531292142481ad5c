"""An OpenAI-compatible API: one address, whose refusals name our settings, and that is asked again while it is busy.

Owns the retries of what may be retried. Owns neither the HTTP (semievol.http) nor what is asked: see engines.openai and
fine_tuning. Invariant: whatever the API does, the caller sees one of our errors, whose text names the API.
"""

from __future__ import annotations

from typing import Any, Self

from semievol.backoff import Backoff
from semievol.errors import ConfigError
from semievol.http.client import HttpClient
from semievol.http.errors import BusyError, KeyRefusedError, OddAnswerError
from semievol.http.server_address import ServerAddress

_BUSY = Backoff(0.5, 30.0, jitter=(0.5, 1.0))


class NotJsonError(ConfigError):
    """An answer with status 200 that is no JSON object."""


class OpenAIClient:
    """Speaks to one API; one event loop. `async with` closes it."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        key_setting: str,
        connections: int = 64,
        http: HttpClient | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            base_url: up to and including /v1.
            api_key: sent as bearer token; None: nothing is sent.
            key_setting: the setting that an error about the key names.
            connections: at a time.
            http: is closed with this client; None: one for so many connections.

        Raises:
            ConfigError: the key cannot stand in a header.
        """
        self.base_url = base_url.rstrip("/")
        self._key_setting = key_setting
        self._server = ServerAddress.at(self.base_url, api_key, name=self.base_url, key_setting=key_setting)
        self._http = http or HttpClient(connections=connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        patience_s: float,
        timeout_s: float = 60.0,
        wanted: str | None = None,
        **content: Any,
    ) -> dict[str, Any]:
        """The JSON object of an answer; `content` is httpx's `json`, `data`, `files`, `params`.

        Args:
            method: GET or POST.
            path: after base_url, `/models`.
            patience_s: for how long it is asked again once it was busy; 0: not at all.
            timeout_s: what one attempt gets.
            wanted: what the object holds where it is no error (see http.answer).
            content: of the request.

        Raises:
            BusyError: no answer within `patience_s`.
            ConfigError: it wants another key, or the request cannot be sent at all.
            DataError: a text cannot be sent.
            NotJsonError: see there.
            RefusedError: it refuses the request.
        """
        return await _BUSY.call(
            lambda: self._once(method, path, timeout_s, wanted, content), retry_on=BusyError, patience_s=patience_s
        )

    async def _once(
        self, method: str, path: str, timeout_s: float, wanted: str | None, content: dict[str, Any]
    ) -> dict[str, Any]:
        try:
            answer = await self._http.ask(self._server, method, path, timeout_s=timeout_s, **content)
            return answer.object(wanted)
        except KeyRefusedError as refused:
            variable = f"SEMIEVOL__{self._key_setting.replace('.', '__').upper()}"
            raise ConfigError(
                f"{self._key_setting}: {self.base_url} wants another key (HTTP {refused.status}); set {variable}"
            ) from refused
        except OddAnswerError as odd:
            raise NotJsonError(f"{odd}; does base_url end in /v1?") from odd
