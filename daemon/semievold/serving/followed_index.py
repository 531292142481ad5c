"""A process's example index as a copy of the state: every process that needs neighbours has one in memory.

Owns when the copy is brought up to the state. The state's rows, their vectors among them, are the truth; what changes
here was read there, one change after another, so that any number of processes may take labels. A Qdrant server needs
none of this. Invariant: what is held out, retracted, or has an answer that the task does not know leaves the copy, and
never enters it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence

from semievol.errors import TransientError
from semievol.examples.resident import ResidentExampleIndex
from semievol.types import Example, Neighbour
from semievold.retry import set_within
from semievold.store.database import chunks
from semievold.store.examples import ExampleStore

log = logging.getLogger(__name__)

OVERLAP_S = 60.0
"""Changes are looked for this far back. A change is stamped by the clock of the process that makes it, before
it is committed: so much may clocks differ, and so long may a commit take."""
PAGE = 256
PROGRESS_S = 10.0


class FollowedIndex:
    """An ExampleIndex that shows what the state holds; starts empty.

    Args:
        examples: the state's.
        index: the copy, which nobody else changes.
        interval_s: how often other processes' changes are looked for, seconds.
        knows: whether the task has the example's answer.
    """

    def __init__(
        self,
        examples: ExampleStore,
        index: ResidentExampleIndex,
        interval_s: float,
        knows: Callable[[Example], bool] = lambda _: True,
    ) -> None:
        self._examples = examples
        self._index = index
        self._interval_s = interval_s
        self._knows = knows
        self._changing = threading.Lock()  # from the reading of rows to their place in the copy
        self._applied: dict[str, float] = {}  # example id -> the change that the copy reflects
        self._newest = 0.0  # stamped by whoever's clock
        self._looked_at = 0.0  # by this process's clock
        self._told_of_a_clock = False
        self._own: set[str] = set()  # brought by this process since it last followed

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
            TransientError: the state or the embedder did not answer; the next call goes on.
        """
        return await asyncio.to_thread(self._catch_up)

    # --- ExampleIndex ----------------------------------------------------------------------------------------------

    def upsert(self, examples: Sequence[Example]) -> None:
        """Bring these examples to what the state says of them now."""
        self._bring([example.id for example in examples])

    def delete(self, ids: Sequence[str]) -> None:
        """Bring these examples to what the state says of them now."""
        self._bring(ids)

    def neighbours(self, questions: Sequence[str], k: int) -> list[list[Neighbour]]:
        """The k nearest examples of each question, nearest first (equals by example id)."""
        return self._index.neighbours(questions, k)

    def ids(self) -> frozenset[str]:
        """The ids of all examples that can be retrieved."""
        return self._index.ids()

    def close(self) -> None:
        """Nothing is held open."""
        self._index.close()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _bring(self, ids: Sequence[str]) -> None:
        for some in chunks(list(dict.fromkeys(ids)), PAGE):
            self._apply(some)
            with self._changing:
                self._own.update(some)

    def _apply(self, ids: Sequence[str]) -> None:
        with self._changing:
            kept = self._kept(ids)
            self._index.upsert(kept)
            self._index.delete(sorted(set(ids) - {example.id for example in kept}))

    def _apply_what_can_be(self, ids: Sequence[str]) -> None:
        """As `_apply`; an example whose question the embedder refuses is named and left out until it changes."""
        with self._changing:
            kept = self._kept(ids)
            refused = self._index.upsert_what_can_be(kept)
            # Also what a refused one was before.
            self._index.delete(sorted(set(ids) - {example.id for example in kept} | refused.keys()))
        for refusal in refused.values():
            log.error("left out of the example index until it changes: %s", refusal)

    def _kept(self, ids: Sequence[str]) -> list[Example]:
        return [example for example in self._examples.training(ids) if self._knows(example)]

    def _tell_of_a_clock(self, ahead_s: float) -> None:
        if ahead_s <= OVERLAP_S:
            self._told_of_a_clock = False
        elif not self._told_of_a_clock:
            self._told_of_a_clock = True
            log.warning(
                "an example is stamped %.0f s ahead of this machine's clock; one of the clocks is wrong, and changes "
                "by a clock that is more than %.0f s behind may be seen only at the next start: set the clocks by NTP",
                ahead_s,
                OVERLAP_S,
            )

    def _catch_up(self) -> int:
        started, embedded, said = time.monotonic(), self._index.embedded, time.monotonic()
        now = time.time()
        # A stamp of a clock that is ahead must not hide what others stamp until the clocks have caught up.
        changes = self._examples.changes(min(self._newest, self._looked_at, now) - OVERLAP_S)
        due = [example_id for example_id, at in changes.items() if self._applied.get(example_id) != at]
        for done, some in enumerate(chunks(due, PAGE)):
            self._apply_what_can_be(some)
            self._applied.update((example_id, changes[example_id]) for example_id in some)
            if time.monotonic() - said > PROGRESS_S:
                said = time.monotonic()
                log.info("example index: %d of %d changes followed so far", done * PAGE + len(some), len(due))
        self._newest, self._looked_at = max([self._newest, *changes.values()]), now
        self._tell_of_a_clock(self._newest - now)
        with self._changing:
            others = len(set(due) - self._own)
            self._own.clear()
        if others:
            log.info(
                "example index: %d changes followed in %.1f s, %d examples that had no vector of this embedder in the "
                "state embedded",
                others,
                time.monotonic() - started,
                self._index.embedded - embedded,
            )
        return len(due)
