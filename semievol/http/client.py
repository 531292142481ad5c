"""Asking servers over HTTP, waiting or blocking: requests, time limits, and what it means when nothing comes back.

Owns the connections. Owns not what is asked, what an answer means (answer), or whether it is asked again (backoff).
Invariants: whatever happens to a request, the caller sees one of our errors, whose text names the server; the key is in
none of them, nor in what a traceback shows of their causes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import httpx

from semievol.errors import DataError
from semievol.http.answer import Answer
from semievol.http.errors import ServerDownError, TimedOutError, UnreachedError, UnsendableError
from semievol.http.server_address import ServerAddress

# vLLM closes a connection that was quiet for 5 s; a request on one that is being closed would look like a dead server.
_KEEP_ALIVE_S = 3.0


class HttpClient:
    """Speaks to any number of servers over kept-alive connections; one event loop. `async with` closes it."""

    def __init__(self, *, connections: int = 64, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Open nothing yet.

        Args:
            connections: at a time, of all servers together.
            transport: None: the network.
        """
        self._http = httpx.AsyncClient(limits=_limits(connections), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(self, server: ServerAddress, method: str, path: str, *, timeout_s: float, **content: Any) -> Answer:
        """What the server answers, whatever its status.

        Args:
            server: who is asked.
            method: GET or POST.
            path: after the server's address.
            timeout_s: for connecting and again for each part of the answer.
            content: httpx's `json`, `data`, `files`, `params`.

        Raises:
            DataError: a text cannot be sent.
            ServerDownError: no connection, or one that broke.
            TimedOutError: no answer in time.
            UnsendableError: see there.
        """
        with _translated(server, timeout_s):
            request = _request(self._http, server, method, path, timeout_s, content)
            return Answer(server, path, await self._http.send(request))


class BlockingHttpClient:
    """The same for code that may block; `with` closes it."""

    def __init__(
        self, *, connections: int = 8, transport: httpx.BaseTransport | None = None, proxies: bool = True
    ) -> None:
        """Open nothing yet; `proxies` off: what the environment says of them is not heeded, for servers here."""
        self._http = httpx.Client(limits=_limits(connections), transport=transport, trust_env=proxies)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, server: ServerAddress, method: str, path: str, *, timeout_s: float, **content: Any) -> Answer:
        """As HttpClient's."""
        with _translated(server, timeout_s):
            request = _request(self._http, server, method, path, timeout_s, content)
            return Answer(server, path, self._http.send(request))


def _limits(connections: int) -> httpx.Limits:
    return httpx.Limits(
        max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_KEEP_ALIVE_S
    )


def _request(
    http: httpx.AsyncClient | httpx.Client,
    server: ServerAddress,
    method: str,
    path: str,
    timeout_s: float,
    content: dict[str, Any],
) -> httpx.Request:
    url = server.base_url + path
    return http.build_request(method, url, headers=dict(server.headers), timeout=timeout_s, **content)


@contextmanager
def _translated(server: ServerAddress, timeout_s: float) -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError:
        raise DataError("messages: a text holds half of a surrogate pair, which no encoding takes") from None
    except httpx.InvalidURL as error:
        raise UnsendableError(f"{server.name}: {server.base_url} is no address ({error})") from None
    except httpx.PoolTimeout as error:
        raise TimedOutError(f"{server.name}: no free connection within {timeout_s:.0f} s") from error
    except httpx.ConnectTimeout as error:
        raise UnreachedError(f"{server.name}: no connection within {timeout_s:.0f} s") from error
    except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
        raise TimedOutError(f"{server.name}: no answer within {timeout_s:.0f} s") from error
    except httpx.LocalProtocolError as error:
        # Asked again it would fail again; its text, and the traceback of its cause, hold the header with the key.
        raise UnsendableError(f"{server.name}: the request cannot be sent ({type(error).__name__})") from None
    except httpx.HTTPError as error:
        raise ServerDownError(f"{server.name}: {type(error).__name__} {error}".rstrip()) from error
