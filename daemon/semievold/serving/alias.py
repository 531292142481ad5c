"""The alias in this process: binds each request to the version that serves when it is admitted.

Owns the counts of running requests per version, so that a version is unloaded only when nobody is on it any
more. The truth is the database row; this follows it and never moves backwards (by generation).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from semievold.store.aliases import AliasState


class Alias:
    """Which adapter the stable name stands for, and who is still using which."""

    def __init__(self, state: AliasState) -> None:
        self._state = state
        self._running: Counter[str | None] = Counter()
        self._ended = asyncio.Condition()

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

    @asynccontextmanager
    async def bind(
        self, adapter: str | None = None, *, pinned: bool = False, client: str | None = None
    ) -> AsyncIterator[str | None]:
        """Bind to the serving version (or, when `pinned`, to `adapter`) until the block ends; `client`, where one is
        named, to the version on trial if that answers it.
        """
        # No await between reading the state and counting: a move cannot slip in between.
        bound = adapter if pinned else self._state.adapter
        if client is not None and not pinned and self.tries(client):
            bound = self.canary
        self._running[bound] += 1
        try:
            yield bound
        finally:
            self._running[bound] -= 1
            async with self._ended:
                self._ended.notify_all()

    async def drained(self, adapter: str, timeout_s: float) -> bool:
        """Wait until no request runs on `adapter`; False when some still do after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s), self._ended:
                await self._ended.wait_for(lambda: self._running[adapter] == 0)
        except TimeoutError:
            return False
        return True
