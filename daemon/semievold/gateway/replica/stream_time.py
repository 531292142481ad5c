"""How long a stream may take: its replica until the call's deadline, its client a while longer to take what has come.

Owns the one timer of both. Invariant: while the client is awaited, its replica is not said to be slow.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class StreamTime:
    """The time of one stream, as an `async with` around it, which ends with TimeoutError.

    One timer for the whole of it: a timeout around each of its events would cost as much as passing it on.
    """

    def __init__(self, deadline: float, longer_s: float) -> None:
        """`deadline` is of the event loop's clock."""
        self._deadline = deadline
        self._whole = asyncio.timeout_at(deadline + longer_s)
        self._timer: asyncio.TimerHandle | None = None
        self.reading = False
        """Whether the replica is awaited; told by who does."""
        self.over = False
        """Whether the deadline has passed: nothing more is asked of the replica."""
        self.slow = False
        """Whether it passed while the replica was awaited, and ended the block."""

    async def __aenter__(self) -> None:
        await self._whole.__aenter__()
        self._timer = asyncio.get_running_loop().call_at(self._deadline, self._passed)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._whole.__aexit__(kind, error, trace)

    def _passed(self) -> None:
        self.over = True
        if self.reading:
            self.slow = True
            self._whole.reschedule(self._deadline)  # which is now
