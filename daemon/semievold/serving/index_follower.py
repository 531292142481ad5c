"""Keeps a process's own example index equal to the state: for processes that cannot open the embedded Qdrant directory.

One process alone, the one with the labels role, may open that directory; every other one that needs neighbours has a
copy in memory, built from the stored examples and followed. A Qdrant server needs none of this.
Invariant: what is held out or retracted leaves the copy, and never enters it.
"""

from __future__ import annotations

import asyncio
import logging

from semievol.errors import TransientError
from semievol.protocols import ExampleIndex
from semievold.retry import set_within
from semievold.store.database import chunks
from semievold.store.examples import ExampleStore

log = logging.getLogger(__name__)

OVERLAP_S = 60.0
"""Changes are looked for this far back. A change is stamped by the clock of the process that makes it, before
it is committed: so much may clocks differ, and so long may a commit take."""
PAGE = 256


class IndexFollower:
    """Brings an index that starts empty up to the stored examples, and keeps it there."""

    def __init__(self, examples: ExampleStore, index: ExampleIndex, interval_s: float) -> None:
        self._examples = examples
        self._index = index
        self._interval_s = interval_s
        self._applied: dict[str, float] = {}  # example id -> the change that the index reflects
        self._newest = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until stopped, also while the state is away."""
        away = False
        while not await set_within(stop, self._interval_s):
            try:
                await self.catch_up()
                away = False
            except TransientError as error:
                if not away:
                    log.warning("the examples cannot be followed for the moment: %s", error)
                away = True

    async def catch_up(self) -> int:
        """Apply what changed since the last call; how many examples that were.

        Raises:
            TransientError: the state did not answer; the next call goes on.
        """
        return await asyncio.to_thread(self._catch_up)

    def _catch_up(self) -> int:
        changes = self._examples.changes(self._newest - OVERLAP_S)
        due = [example_id for example_id, at in changes.items() if self._applied.get(example_id) != at]
        for some in chunks(due, PAGE):
            kept = self._examples.training(some)
            self._index.upsert(kept)
            self._index.delete(sorted(set(some) - {example.id for example in kept}))
            self._applied.update((example_id, changes[example_id]) for example_id in some)
        self._newest = max([self._newest, *changes.values()])
        if due:
            log.info("example index: %d changes followed", len(due))
        return len(due)
