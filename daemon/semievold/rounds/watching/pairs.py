"""Has live queries answered by both versions of a round, beside everything else and unseen by clients.

Owns who is drawn, how many, and what is given up when the engine is busy; what was drawn and answered is in
`semievold.store.shadow_pairs`. Both answers are asked for anew, greedily and without neighbours, as the gate asks: what
a client got was drawn with the client's settings, and would differ from another draw of the same version.
Invariants: nobody waits for a pair; what is left out is counted.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from semievol.errors import SemiEvolError
from semievol.tasks.equality import Same
from semievol.types import Completion, GenerationRequest, Query, Refused, Reply
from semievold.config.daemon import DaemonConfig
from semievold.errors import LeaseLost
from semievold.rounds.tools import RoundTools
from semievold.store.rounds import Round
from semievold.store.shadow_pairs import Answered, PairFate, Place, Waiting

log = logging.getLogger(__name__)

LOOK_S = 1.0
AT_ONCE = 8
"""Pairs that are asked for together."""
LOOKED_AT = 1_000
"""Queries that one look draws from; of more it leaves out the rest."""
BURST_S = 5.0
"""Who drew nothing for a while may draw as many as in so many seconds."""


class ShadowPairs:
    """Draws and asks for the open round, while the leader compares its versions.

    Args:
        monotonic: seconds that never go back.
    """

    def __init__(
        self, config: DaemonConfig, tools: RoundTools, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = config.shadow
        self._tools = tools
        self._store = tools.stores.shadow_pairs
        self._monotonic = monotonic
        self._round: int | None = None
        self._place = Place(0.0, "")
        self._allowed = 0.0
        self._looked_at = 0.0
        self._error: str | None = None
        self.fates: Counter[PairFate] = Counter()

    @asynccontextmanager
    async def beside(self, round_: Round) -> AsyncIterator[None]:
        """Draw and ask as long as the block runs, which fails with nothing of this."""
        if self._settings.share == 0:
            yield
            return
        asking = asyncio.create_task(self._run(round_), name=f"shadow-pairs-{round_.number}")
        try:
            yield
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking

    async def _run(self, round_: Round) -> None:
        """Look about once a second. An engine or a state that does not answer costs pairs alone."""
        while True:
            try:
                await self._look(round_)
                self._error = None
            except LeaseLost:
                return
            except (SemiEvolError, TimeoutError) as error:
                said = str(error) or f"no answer within {self._settings.max_wait_s:g} s"
                if self._error is None:
                    log.warning("shadow pairs: %s; those that wait are asked again for a while", said)
                self._error = said
            except Exception as error:  # a defect of ours: a round goes on without pairs, and it is told at once
                said = repr(error)
                if self._error != said:
                    log.exception("shadow pairs: a defect; the next look is taken all the same")
                self._error = said
            await asyncio.sleep(LOOK_S)

    async def _look(self, round_: Round) -> None:
        if self._round != round_.number:
            # Whoever labels may have a clock that is behind.
            newest = await asyncio.to_thread(self._store.newest)
            await asyncio.to_thread(self._store.drop_of_others, round_.number)
            self._round, self._place = round_.number, min(newest, Place(round_.updated_at, ""))
            self._looked_at, self._allowed = self._monotonic(), self._settings.per_second
        now = self._monotonic()
        self._allowed += self._settings.per_second * (now - self._looked_at)
        self._allowed = min(self._allowed, max(1.0, self._settings.per_second * BURST_S))
        self._looked_at = now
        await self._draw(round_.number)
        before = self._tools.stores.database.now() - self._settings.max_wait_s
        self.fates[PairFate.BUSY] += await asyncio.to_thread(self._store.drop, round_.number, before)
        async with asyncio.timeout(self._settings.max_wait_s):
            while waiting := await asyncio.to_thread(self._store.waiting, round_.number, AT_ONCE):
                await self._answer(round_, waiting)
                if len(waiting) < AT_ONCE:
                    break

    async def _draw(self, number: int) -> None:
        ids, self._place = await asyncio.to_thread(self._store.labelled_after, self._place, LOOKED_AT)
        if len(ids) == LOOKED_AT:  # what is behind by so much is not live any more
            self._place = await asyncio.to_thread(self._store.newest)
        drawn = [id_ for id_ in ids if random.random() < self._settings.share]
        if not drawn or await asyncio.to_thread(self._store.full, number):
            return
        taken = drawn[: int(self._allowed)]
        self.fates[PairFate.TOO_MANY] += len(drawn) - len(taken)
        found = await asyncio.to_thread(self._tools.stores.pseudo_labels.asked, taken, _itself)
        queries = [found[id_] for id_ in taken if id_ in found]
        self._allowed -= await asyncio.to_thread(self._store.draw, number, queries, "intake")

    async def _answer(self, round_: Round, waiting: Sequence[Waiting]) -> None:
        """Ask both versions in one call, and keep what both have answered."""
        task = self._tools.task
        replies: dict[int, Reply] = {}
        requests = [
            GenerationRequest(
                messages=task.prompt(each.query, ()), adapter=adapter, max_tokens=task.config.max_answer_tokens
            )
            for each in waiting
            for adapter in (round_.incumbent, round_.adapter)
        ]
        await self._tools.generator.answer(requests, replies.__setitem__)
        said: dict[str, tuple[str | None, str | None]] = {}
        refused = []
        for place, each in enumerate(waiting):
            old, new = replies.get(2 * place), replies.get(2 * place + 1)
            if isinstance(old, list) and isinstance(new, list):
                said[each.key] = self._read(each.query, old[0]), self._read(each.query, new[0])
            elif isinstance(old, Refused) or isinstance(new, Refused):
                refused.append(each.key)  # what is late alone waits on
        same = await self._tools.equality.among_async(answer for pair in said.values() for answer in pair)
        answered = [Answered(key, *pair, _differ(*pair, same)) for key, pair in said.items()]
        await asyncio.to_thread(self._store.keep, round_.number, answered, refused)
        self.fates[PairFate.ANSWERED] += len(answered)
        self.fates[PairFate.REFUSED] += len(refused)

    def _read(self, query: Query, said: Completion) -> str | None:
        return self._tools.task.parse(said.text, query, truncated=said.finish_reason == "length")


def _itself(query: Query) -> Query:
    return query


def _differ(incumbent: str | None, candidate: str | None, same: Same) -> bool:
    if incumbent is None or candidate is None:
        return incumbent != candidate
    return not same(incumbent, candidate)
