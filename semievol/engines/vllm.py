"""A Generator on vLLM servers: each request goes to one of them, and to another when that one does not answer.

Owns what follows from each way in which a server fails a request: whose turn it is then, and when it is given up. Owns
neither the wire format (vllm_client), nor how many run at a time (concurrency), how long is waited (patience), nor who
is healthy and has which adapter: that is the pool's. Invariants: all samples of a request come from one answer of one
server; what a living server works on is asked of no other.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from semievol import adapter_directory
from semievol.backoff import Backoff
from semievol.engines.concurrency import Line, Turn
from semievol.engines.patience import TIMES, Signs, SilentError, waited_for
from semievol.engines.plain.reading import PromptReader
from semievol.engines.requests import each_for_itself
from semievol.engines.vllm_client import NotServedError, VllmClient
from semievol.errors import DataError, LateError, TooLongError, TransientError
from semievol.http.errors import OddAnswerError, OverloadedError, ServerDownError
from semievol.http.server_address import ServerAddress
from semievol.protocols import Generator, Tell
from semievol.types import Completion, GenerationRequest, Late, Refused, Reply

_NOBODY = Backoff(0.05, 1.0, jitter=(0.5, 1.0))
"""Between two rounds of servers of which none answers."""
_REST = Backoff(1.0, 30.0)
"""Of a server that failed."""
_ODD_ANSWERS = 2
"""A request that was answered oddly so often, by servers that answer others well, is at fault itself."""


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
        self,
        client: VllmClient,
        pool: ServerPool,
        *,
        reader: PromptReader | None = None,
        concurrency: int = 32,
        timeout_s: float = 120.0,
    ) -> None:
        """Ask nothing yet.

        Args:
            client: speaks to the servers; closed with this generator.
            pool: chooses among them.
            reader: reads the prompts that the servers must not read themselves. None: knows the usual families alone.
            concurrency: most requests on one server at a time; interactive ones are not held back.
            timeout_s: what a server gets for one request, counted from when it is sent; one that is slow, and lives,
                gets as long again. Also for how long nobody may answer before the call fails.
        """
        self._client = client
        self._pool = pool
        self._reader = reader or PromptReader()
        self._timeout_s = timeout_s
        self._line = Line(concurrency)
        self._signs = Signs(client.check_health)
        self._suspects: set[str] = set()
        self._understood, self._answered_at = False, 0.0

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        await each_for_itself(requests, self._reply, tell)

    async def load_adapter(self, name: str, path: Path) -> None:
        await self._pool.load_adapter(name, path)

    async def unload_adapter(self, name: str) -> None:
        await self._pool.unload_adapter(name)

    async def loaded_adapters(self) -> frozenset[str]:
        return await self._pool.loaded_adapters()

    async def close(self) -> None:
        await self._signs.close()
        await self._client.close()

    async def _reply(self, request: GenerationRequest) -> Reply:
        """One request, tried on one server after another until somebody answers or nobody has for too long."""
        try:
            request = await self._reader.neutral(request)
        except DataError as refusal:
            return Refused(str(refusal))
        began_at = time.monotonic()
        tried = _Tried()

        async def sent() -> list[Completion]:
            async with self._turn(request, tried.avoid) as (server, turn):
                return await self._attempt(server, turn, request, tried)

        def odd_itself(error: Exception) -> bool:
            return isinstance(error, OddAnswerError) and self._understood and tried.odd >= _ODD_ANSWERS

        def again(error: Exception) -> bool:
            return isinstance(error, TransientError) and not isinstance(error, LateError) and not odd_itself(error)

        try:
            return await _NOBODY.call(sent, retry_on=again, patience_s=self._timeout_s, heed=False)
        except DataError as refusal:
            return Refused(str(refusal), too_long=isinstance(refusal, TooLongError))
        except LateError as late:
            return Late(str(late))
        except TransientError as error:
            if odd_itself(error):
                return Refused(str(error))
            if isinstance(error, ServerDownError) and self._answered_at > began_at:
                return Late(f"others are answered, and this one is not: {error}")
            raise

    @asynccontextmanager
    async def _turn(
        self, request: GenerationRequest, avoid: Collection[str]
    ) -> AsyncIterator[tuple[ServerAddress, Turn | None]]:
        """A server for this request, and its place there."""
        if request.interactive:
            async with self._pool.lend(request.adapter, avoid=avoid) as server:
                yield server, None
            return
        async with self._line.turn(
            lambda full: self._pool.lend(request.adapter, avoid={*avoid, *full}), avoid
        ) as place:
            yield place

    async def _attempt(
        self, server: ServerAddress, turn: Turn | None, request: GenerationRequest, tried: _Tried
    ) -> list[Completion]:
        try:
            if server.name in self._suspects:
                await self._check(server)
            answers = await waited_for(
                self._client.complete(server, request, TIMES * self._timeout_s + 1.0),
                lambda: self._signs.silence(server.name, server),
                self._timeout_s,
                turn.overloaded if turn else _nothing,
            )
        except NotServedError as missing:
            # It may have restarted a moment ago; said twice by the same server, it is the truth.
            if server.name in tried.without_adapter:
                raise
            tried.without_adapter.add(server.name)
            self._failed(server, tried, missing)
            raise TransientError(str(missing)) from missing
        except (ServerDownError, SilentError) as down:
            self._failed(server, tried, down)
            raise
        except OverloadedError as overloaded:
            tried.avoid.add(server.name)
            if turn:
                turn.overloaded(overloaded.wait_s)
            if await self._signs.silence(server.name, server) is not None:  # a dead engine says 503, too
                self._failed(server, tried, overloaded)
            raise
        except OddAnswerError:
            tried.odd += 1
            tried.avoid.add(server.name)
            raise
        except LateError as late:
            raise LateError(f"{server.name}: {late}") from late
        except TransientError:
            tried.avoid.add(server.name)
            raise
        if turn:
            turn.answered()
        self._understood, self._answered_at = True, time.monotonic()
        return answers

    async def _check(self, server: ServerAddress) -> None:
        """Whether it lives.

        Raises:
            SilentError: it does not.
        """
        why = await self._signs.silence(server.name, server)
        if why is not None:
            raise SilentError(why)
        self._suspects.discard(server.name)

    def _failed(self, server: ServerAddress, tried: _Tried, error: Exception) -> None:
        tried.avoid.add(server.name)
        self._suspects.add(server.name)
        self._line.limit(server.name).restart()
        self._pool.failed(server.name, str(error))


@dataclass(slots=True)
class _Tried:
    """What a request has met so far."""

    avoid: set[str] = field(default_factory=set)
    without_adapter: set[str] = field(default_factory=set)
    odd: int = 0


def _nothing() -> None:
    pass


class FixedServers:
    """A pool of servers that nobody watches: all are taken to be well and to have the adapters that were loaded here.

    For runs without a daemon. A server that failed rests for a second, and for longer each time that it fails again.
    """

    def __init__(self, client: VllmClient, servers: Sequence[ServerAddress]) -> None:
        self._client = client
        self._servers = tuple(servers)
        self._running: Counter[str] = Counter()
        self._resting: dict[str, float] = {}
        self._failures: Counter[str] = Counter()  # in a row
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
        failures = self._failures[server.name]
        try:
            yield server
            if self._failures[server.name] == failures:
                self._failures[server.name] = 0
        finally:
            self._running[server.name] -= 1

    def failed(self, name: str, reason: str) -> None:
        rests_until = self._resting.get(name, 0.0)
        if time.monotonic() < rests_until:  # others that were with it at the same time
            return
        self._failures[name] += 1
        self._resting[name] = time.monotonic() + _REST.bound_s(self._failures[name])

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
