"""How the answers of this process went: of the version that serves the last thousand, of one on trial all of them.

Owns the counts and their way to the state, where the leader weighs those of all processes. Invariant: what is written
are totals since the process began, so that a write that is done again counts nothing twice.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Sequence
from operator import add

from semievol.errors import SemiEvolError
from semievol.tasks.task import Task
from semievol.types import PseudoLabel, Query
from semievold.config.daemon import RolloutConfig
from semievold.retry import set_within
from semievold.serving.alias import Alias
from semievold.store.rollout.canaries import SOURCES, CanaryStore, Counted, Source, Tally

log = logging.getLogger(__name__)

WINDOW = 1000
"""Of so many of its last answers the bounds of the version that serves are."""
WRITE_S = 0.25
"""How often new counts are written while a version is on trial."""

_Went = tuple[int, int, int, int, int, int]
"""One answer, in the fields of Tally."""


class _Last:
    """The last answers from one source, and their sums."""

    def __init__(self) -> None:
        self._answers: deque[_Went] = deque()
        self._sums = [0] * 6

    def add(self, went: _Went) -> None:
        self._answers.append(went)
        gone = self._answers.popleft() if len(self._answers) > WINDOW else (0,) * 6
        self._sums = [total + new - old for total, new, old in zip(self._sums, went, gone, strict=True)]

    def tally(self) -> Tally:
        return Tally(*self._sums)


class AnswerCounts:
    """Counts what one process answers. Without a canary, in the state or in the settings, it does nothing."""

    def __init__(self, config: RolloutConfig, alias: Alias, task: Task, store: CanaryStore) -> None:
        self._wanted = bool(config.canary)
        self._slow_s = config.slow_answer_s
        self._alias = alias
        self._task = task
        self._store = store
        self._process = secrets.token_hex(16)
        self._serving: str | None = None
        self._last = {source: _Last() for source in SOURCES}
        self._canary: str | None = None
        self._trial: dict[tuple[int, Source], list[int]] = {}
        self._new = False
        self._error: str | None = None

    @property
    def active(self) -> bool:
        return self._wanted or self._alias.canary is not None

    def answered(self, adapter: str | None, *, failed: bool, seconds: float, text: str | None) -> None:
        """An answer to a client; its `text` where it is one."""
        if not self.active:
            return
        if self._task.config.asks_with_options:
            text = None  # a client's request has none, as the API knows them
        unparsed = text is not None and not failed and self._task.parse(text, Query("", "")) is None
        timed, read = int(not failed), int(text is not None and not failed)
        slow = int(not failed and seconds > self._slow_s)
        self._count("gateway", adapter, (1, int(failed), timed, slow, read, int(unparsed)))

    def labelled(self, labels: Sequence[PseudoLabel]) -> None:
        """Queries of the stream that were answered."""
        if self.active:
            for label in labels:
                self._count("intake", label.adapter, (1, 0, 0, 0, 1, int(label.answer is None)))

    def unlabelled(self, adapter: str | None) -> None:
        """Queries of the stream that `adapter` could not be asked, of one cause."""
        if self.active:
            self._count("intake", adapter, (1, 1, 0, 0, 0, 0))

    async def run(self, stop: asyncio.Event) -> None:
        """Write what is new until stopped, and then once more."""
        while not await set_within(stop, WRITE_S):
            await self.write()
        await self.write()

    async def write(self) -> None:
        """Write what was counted, where a version is on trial; later, where the state is away."""
        canary = self._alias.canary
        if canary is None or (not self._new and canary == self._canary):
            return
        self._begin(canary)
        counted = [Counted("canary", stage, source, Tally(*sums)) for (stage, source), sums in self._trial.items()]
        if self._serving == self._alias.adapter:
            last = [(source, each.tally()) for source, each in self._last.items()]
            counted += [Counted("incumbent", 0, source, tally) for source, tally in last if tally.answers]
        self._new = False
        try:
            await asyncio.to_thread(self._store.count, canary, self._process, counted)
        except SemiEvolError as error:
            self._new = True
            if self._error is None:
                log.warning("the answers of the version on trial are not told to the state for now: %s", error)
            self._error = str(error)
        else:
            self._error = None

    def _count(self, source: Source, adapter: str | None, went: _Went) -> None:
        canary = self._alias.state.canary
        if canary is not None and adapter == canary.adapter:
            self._begin(canary.adapter)
            sums = self._trial.setdefault((canary.stage, source), [0] * len(went))
            sums[:] = map(add, sums, went)
        elif adapter == self._alias.adapter:
            if adapter != self._serving:
                self._serving, self._last = adapter, {each: _Last() for each in SOURCES}
            self._last[source].add(went)
        else:
            return  # it ended on a version that has been left
        self._new = True

    def _begin(self, canary: str) -> None:
        if canary != self._canary:
            self._canary, self._trial = canary, {}
