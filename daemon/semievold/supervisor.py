"""Runs the daemon's named tasks: an unexpected end of any of them stops all, in stages, with a non-zero exit.

Owns task lifetimes and the one stop deadline; not what the tasks do. A stage is stopped only after the stage before
it has ended, so that intake stops polling before the engine that answers for it goes away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

Stop = asyncio.Event
Run = Callable[[Stop], Awaitable[None]]


@dataclass(slots=True)
class _Entry:
    name: str
    stage: int
    run: Run
    stop: Stop = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Supervisor:
    """Starts tasks, waits for a stop or a failure, stops stage by stage within one deadline."""

    def __init__(self, stop_deadline_s: float) -> None:
        self._deadline_s = stop_deadline_s
        self._entries: list[_Entry] = []
        self._stopping = asyncio.Event()
        self.failure: str | None = None

    def add(self, name: str, run: Run, *, stage: int) -> None:
        """Register an eternal task; lower stages are stopped first."""
        self._entries.append(_Entry(name, stage, run))

    def request_stop(self, reason: str) -> None:
        if not self._stopping.is_set():
            log.info("stopping: %s", reason)
            self._stopping.set()

    @property
    def stop_requested(self) -> asyncio.Event:
        """Set once the stop was asked for; for what is waited for before the tasks run."""
        return self._stopping

    async def run(self) -> int:
        """Run until asked to stop or a task ends by itself; returns the exit code."""
        for entry in self._entries:
            entry.task = asyncio.create_task(self._guard(entry), name=entry.name)
        await self._stopping.wait()
        await self._stop_in_stages()
        return 0 if self.failure is None else 1

    async def _guard(self, entry: _Entry) -> None:
        try:
            await entry.run(entry.stop)
        except asyncio.CancelledError:
            if not entry.stop.is_set():  # not by us: a call inside it was cancelled, and the role is gone
                self.failure = self.failure or f"task {entry.name} was cancelled"
                self.request_stop(self.failure)
            raise
        except Exception as error:
            log.exception("task %s failed", entry.name)
            self.failure = self.failure or f"task {entry.name} failed: {error}"
            self.request_stop(self.failure)
        else:
            if not entry.stop.is_set():
                self.failure = self.failure or f"task {entry.name} ended unexpectedly"
                self.request_stop(self.failure)

    async def _stop_in_stages(self) -> None:
        end = time.monotonic() + self._deadline_s
        for stage in sorted({entry.stage for entry in self._entries}):
            members = [entry for entry in self._entries if entry.stage == stage and entry.task is not None]
            for entry in members:
                entry.stop.set()
            tasks = [entry.task for entry in members if entry.task is not None]
            left = max(0.0, end - time.monotonic())
            _, late = await asyncio.wait(tasks, timeout=left)
            for task in late:
                log.warning("task %s did not stop within %.0f s; cancelled", task.get_name(), self._deadline_s)
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
