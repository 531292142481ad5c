"""The alias in this process: binds each request to the version that serves when it is admitted.

Owns the counts of running requests per version, so that a version is unloaded only when nobody is on it any
more. The truth is the database row; this follows it and never moves backwards (by generation).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from semievold.store.aliases import AliasState


class Alias:
    """Which adapter the stable name stands for, and who is still using which."""

    def __init__(self, state: AliasState) -> None:
        self._state = state
        self._running: Counter[str | None] = Counter()
        self._ended = asyncio.Condition()
        self._draining = 0

    @property
    def state(self) -> AliasState:
        return self._state

    @property
    def adapter(self) -> str | None:
        return self._state.adapter

    @property
    def canary(self) -> str | None:
        """The version on trial; None: there is none."""
        return None if self._state.canary is None else self._state.canary.adapter

    def tries(self, client: str) -> bool:
        """Whether a version on trial answers this client."""
        return self._state.canary is not None and self._state.canary.takes(client)

    def follow(self, state: AliasState) -> None:
        """Take over a newer state; running requests stay on the version they were bound to."""
        if state.generation > self._state.generation:
            self._state = state

    def running(self, adapter: str | None) -> int:
        return self._running[adapter]

    def bind(
        self, adapter: str | None = None, *, pinned: bool = False, client: str | None = None
    ) -> AbstractAsyncContextManager[str | None]:
        """Bind to the serving version (or, when `pinned`, to `adapter`) until the block ends; `client`, where one is
        named, to the version on trial if that answers it.
        """
        return _Bound(self, adapter, pinned, client)

    def enter(self, adapter: str | None, *, pinned: bool, client: str | None) -> str | None:
        """See `bind`: the version, which is counted from here on."""
        # No await between reading the state and counting: a move cannot slip in between.
        bound = adapter if pinned else self._state.adapter
        if client is not None and not pinned and self.tries(client):
            bound = self.canary
        self._running[bound] += 1
        return bound

    async def leave(self, bound: str | None) -> None:
        """A request on this version has ended."""
        self._running[bound] -= 1
        if self._draining:
            async with self._ended:
                self._ended.notify_all()

    async def drained(self, adapter: str, timeout_s: float) -> bool:
        """Wait until no request runs on `adapter`; False when some still do after `timeout_s`."""
        self._draining += 1
        try:
            async with asyncio.timeout(timeout_s), self._ended:
                await self._ended.wait_for(lambda: self._running[adapter] == 0)
        except TimeoutError:
            return False
        finally:
            self._draining -= 1
        return True


class _Bound:
    """What `bind` gives. A class, for a generator would cost each request as much as its parsing."""

    __slots__ = ("_adapter", "_alias", "_bound", "_client", "_pinned")

    def __init__(self, alias: Alias, adapter: str | None, pinned: bool, client: str | None) -> None:
        self._alias, self._adapter, self._pinned, self._client = alias, adapter, pinned, client
        self._bound: str | None = None

    async def __aenter__(self) -> str | None:
        self._bound = self._alias.enter(self._adapter, pinned=self._pinned, client=self._client)
        return self._bound

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._alias.leave(self._bound)
