"""A Generator on vLLM servers: each request goes to one of them, and to another when that one does not answer.

Owns retries, the deadline of a request and how many run on a server at a time. Owns neither the wire format
(vllm_client) nor who is healthy and has which adapter: that is the pool's. Invariant: all samples of a request come
from one answer of one server; a call either returns everything or raises.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from semievol import adapter_directory
from semievol.engines.server_address import ServerAddress
from semievol.engines.vllm_client import NotServedError, ServerDownError, VllmClient
from semievol.errors import TransientError
from semievol.protocols import Generator
from semievol.types import Completion, GenerationRequest

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 1.0
_REST_S = 1.0


class ServerPool(Protocol):
    """Who answers with which adapter."""

    def lend(self, adapter: str | None, *, avoid: Collection[str] = ()) -> AbstractAsyncContextManager[ServerAddress]:
        """The least busy server that has `adapter`, counted as busy in the block; one in `avoid` only if it must be.

        Raises:
            AdapterError: nobody is to have this adapter.
            TransientError: nobody can answer with it now.
        """
        ...

    def failed(self, name: str, reason: str) -> None:
        """The server did not answer: send it nothing until it shows signs of life."""
        ...

    async def load_adapter(self, name: str, path: Path) -> None: ...

    async def unload_adapter(self, name: str) -> None: ...

    async def loaded_adapters(self) -> frozenset[str]: ...


class VllmGenerator(Generator):
    """Answers prompts with the servers of a pool."""

    def __init__(
        self, client: VllmClient, pool: ServerPool, *, concurrency: int = 32, timeout_s: float = 120.0
    ) -> None:
        """Ask nothing yet.

        Args:
            client: speaks to the servers; closed with this generator.
            pool: chooses among them.
            concurrency: requests on one server at a time; interactive ones are not held back.
            timeout_s: what a request gets for all its attempts together, counted from its first.
        """
        self._client = client
        self._pool = pool
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._slots: dict[str, asyncio.Semaphore] = {}

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        tasks = [asyncio.create_task(self._answer(request)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def load_adapter(self, name: str, path: Path) -> None:
        await self._pool.load_adapter(name, path)

    async def unload_adapter(self, name: str) -> None:
        await self._pool.unload_adapter(name)

    async def loaded_adapters(self) -> frozenset[str]:
        return await self._pool.loaded_adapters()

    async def close(self) -> None:
        await self._client.close()

    async def _answer(self, request: GenerationRequest) -> list[Completion]:
        """One request, tried on one server after another until its deadline."""
        deadline: float | None = None
        avoid: set[str] = set()
        without_adapter: set[str] = set()
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                async with self._pool.lend(request.adapter, avoid=avoid) as server, self._slot(server, request):
                    deadline = deadline or time.monotonic() + self._timeout_s
                    left_s = max(0.1, deadline - time.monotonic())
                    return await self._attempt(server, request, left_s, avoid, without_adapter)
            except TransientError:
                deadline = deadline or time.monotonic() + self._timeout_s
                if time.monotonic() + wait_s >= deadline:
                    raise
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)

    async def _attempt(
        self,
        server: ServerAddress,
        request: GenerationRequest,
        timeout_s: float,
        avoid: set[str],
        without_adapter: set[str],
    ) -> list[Completion]:
        try:
            return await self._client.complete(server, request, timeout_s)
        except NotServedError as missing:
            # It may have restarted a moment ago; said twice by the same server, it is the truth.
            if server.name in without_adapter:
                raise
            without_adapter.add(server.name)
            avoid.add(server.name)
            self._pool.failed(server.name, str(missing))
            raise TransientError(str(missing)) from missing
        except ServerDownError as down:
            avoid.add(server.name)
            self._pool.failed(server.name, str(down))
            raise
        except TransientError:
            avoid.add(server.name)
            raise

    @asynccontextmanager
    async def _slot(self, server: ServerAddress, request: GenerationRequest) -> AsyncIterator[None]:
        if request.interactive:
            yield
            return
        async with self._slots.setdefault(server.name, asyncio.Semaphore(self._concurrency)):
            yield


class FixedServers:
    """A pool of servers that nobody watches: all are taken to be well and to have the adapters that were loaded here.

    For runs without a daemon. A server that failed rests for a second.
    """

    def __init__(self, client: VllmClient, servers: Sequence[ServerAddress]) -> None:
        self._client = client
        self._servers = tuple(servers)
        self._running: Counter[str] = Counter()
        self._resting: dict[str, float] = {}
        self._loaded: set[tuple[str, str]] = set()  # server and adapter; each may have had the name before

    @asynccontextmanager
    async def lend(self, adapter: str | None, *, avoid: Collection[str] = ()) -> AsyncIterator[ServerAddress]:
        now = time.monotonic()
        server = min(
            self._servers,
            key=lambda each: (
                self._resting.get(each.name, 0.0) > now,
                each.name in avoid,
                self._running[each.name],
                random.random(),
            ),
        )
        self._running[server.name] += 1
        try:
            yield server
        finally:
            self._running[server.name] -= 1

    def failed(self, name: str, reason: str) -> None:
        self._resting[name] = time.monotonic() + _REST_S

    async def load_adapter(self, name: str, path: Path) -> None:
        adapter_directory.check_name(name)
        await asyncio.to_thread(adapter_directory.verify_weights, path)
        absolute = str(await asyncio.to_thread(path.resolve))
        for server in self._servers:
            # Only what is loaded here is unloaded here: the servers may serve others too.
            if name not in await self._client.models(server):
                await self._client.load(server, name, absolute)
                self._loaded.add((server.name, name))

    async def unload_adapter(self, name: str) -> None:
        await self._unload({pair for pair in self._loaded if pair[1] == name})

    async def unload_all(self) -> None:
        """Leave the servers as they were found.

        Raises:
            TransientError: one does not answer; the others have forgotten all the same.
        """
        await self._unload(set(self._loaded))

    async def loaded_adapters(self) -> frozenset[str]:
        """What was loaded here and every server has."""
        found = [await self._client.models(server) for server in self._servers]
        return frozenset(name for _, name in self._loaded).intersection(*found)

    async def _unload(self, pairs: Collection[tuple[str, str]]) -> None:
        silent: TransientError | None = None
        for server in self._servers:
            try:
                for _, name in sorted(pair for pair in pairs if pair[0] == server.name):
                    await self._client.unload(server, name)
                    self._loaded.discard((server.name, name))
            except TransientError as error:
                silent = error
        if silent is not None:
            raise silent
