"""Which fields a replica's server knows: it takes others in silence, so that a slip of the pen would be ignored.

Owns what each replica's `/openapi.json` lists at an address, asked once. A replica that does not show it (vLLM's
`--disable-fastapi-docs`, other servers) is asked as it is. Invariant: a field that the server does not know passes only
with a value that could not change the answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from math import inf
from typing import Any

import aiohttp

from semievol.http.server_address import ServerAddress
from semievold.gateway.call import Call
from semievold.gateway.dialect.fields import check_known

_PATIENCE_S = 5.0
"""So long a request waits to know; vLLM makes the document at the first time, which takes it seconds."""
_GIVEN_UP_S = 60.0
"""So long it may take to be shown; and so long is nothing asked where it was not, or could not be read."""
_MOST_BYTES = 8 * 1024 * 1024

Known = Mapping[str, frozenset[str]]
"""The names of a request's fields by address."""


class ServerFields:
    """What the replicas know; of one session, made inside the event loop that uses it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._now = asyncio.get_running_loop().time  # in Python 3.11 each asking for the loop is a system call
        self._known: dict[str, tuple[Known, float]] = {}
        """By replica, with the time at which it is asked again."""
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def check(self, call: Call, replica: ServerAddress) -> None:
        """That the replica's server knows the call's fields, as far as it tells.

        Raises:
            ClientMistake: names the field.
        """
        known, until = self._known.get(replica.name, ({}, 0.0))
        if self._now() >= until:
            if (task := self._asking.get(replica.name)) is None:
                task = asyncio.create_task(self._ask(replica), name=f"fields of {replica.name}")
                self._asking[replica.name] = task
            await asyncio.wait({task}, timeout=_PATIENCE_S)
            # Who comes after one that waited in vain does not wait; what comes late counts from then on.
            known, _ = self._known.setdefault(replica.name, ({}, self._now() + _GIVEN_UP_S))
        if (fields := known.get(call.path)) is not None:
            check_known(call.body, fields)

    def forget(self, name: str) -> None:
        """The replica failed; another server may come back under its name."""
        self._known.pop(name, None)

    async def close(self) -> None:
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, replica: ServerAddress) -> None:
        known: Known = {}
        try:
            async with (
                asyncio.timeout(_GIVEN_UP_S),
                self._session.get(f"{replica.base_url}/openapi.json", headers=replica.headers) as answer,
            ):
                if answer.status == 200 and answer.content_length and answer.content_length <= _MOST_BYTES:
                    known = fields_of(json.loads(await answer.read()))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError):
            pass
        finally:
            self._known[replica.name] = (known, inf if known else self._now() + _GIVEN_UP_S)
            del self._asking[replica.name]


def fields_of(document: Any) -> Known:
    """The fields of each POST of an OpenAPI document; addresses whose fields it does not list are left out."""
    found = {}
    paths = _at(document, "paths")
    for path, methods in paths.items() if isinstance(paths, dict) else ():
        schema = _at(methods, "post", "requestBody", "content", "application/json", "schema")
        name = _at(schema, "$ref")
        if isinstance(name, str):
            schema = _at(document, "components", "schemas", name.rpartition("/")[2])
        properties = _at(schema, "properties")
        if isinstance(properties, dict) and "model" in properties:
            found[str(path)] = frozenset(properties)
    return found


def _at(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
