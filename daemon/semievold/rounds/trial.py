"""A round's canary: its version answers a rising share of the clients, and is watched while it does.

Owns the stages' time and what is done at a look; what is made of the answers is in `semievold.rollout.canary`.
Invariant: all that a look needs is in the state, so that after a restart the same stage goes on with the same evidence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from semievol.proof.watch import Finding
from semievold.config.daemon import DaemonConfig
from semievold.errors import StateConflict
from semievold.rollout.canary import Seen, look
from semievold.round_states import RoundState
from semievold.rounds.ages import Moment
from semievold.rounds.tools import RoundTools
from semievold.store.lineage.retractions import descends_from
from semievold.store.rounds import Round

log = logging.getLogger(__name__)

LOOK_S = 0.5
"""How often a canary is looked at: two short queries of the state."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a canary ended before its version was promoted; `columns`: what the round keeps of it."""

    state: RoundState
    reason: str
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Look:
    round: Round
    seen: Seen
    unclean: str | None
    frozen: str | None


class Trial:
    """Gives the version of a round to some of the clients first."""

    def __init__(self, config: DaemonConfig, tools: RoundTools) -> None:
        self._config = config
        self._tools = tools

    async def wanted(self, round_: Round) -> bool:
        """Whether the round has a canary before it. Not where the base model serves that `rounds.wait_for_warm` holds
        for no good: until the warm round has decided the intake waits, and nobody might ask.
        """
        if round_.state is RoundState.CANARY or not self._config.rollout.canary:
            return False
        untaught = round_.incumbent is None and self._config.rounds.wait_for_warm
        return not untaught or await asyncio.to_thread(self._tools.stores.warm_ended)

    async def begin(self, round_: Round, generation: int) -> Round:
        """The first stage; the version is loaded.

        Raises:
            StateConflict: the alias is not at `generation` any more, or rounds are frozen.
        """
        canaries, shares = self._tools.stores.canaries, self._config.rollout.canary
        moved = await asyncio.to_thread(canaries.begin, round_, shares, generation)
        await self._tools.fleet.follow()
        return moved

    async def watch(
        self,
        round_: Round,
        looked: Callable[[], Awaitable[None]],
        compared: Callable[[Round], Awaitable[Finding | None]],
    ) -> Exit | None:
        """Wait out all stages; None: they are passed. `looked` is told once of the first look; `compared` says what
        speaks against the version on shadow pairs.

        Raises:
            StateConflict: rounds were frozen, or the alias was moved, as a stage was to end.
        """
        tools, first = self._tools, True
        stage = Moment(tools.stores.database.now)
        await tools.fleet.load(str(round_.adapter))
        while True:
            await tools.fleet.follow()
            state = tools.alias.state
            if state.adapter != round_.incumbent or tools.alias.canary != round_.adapter:
                moved = f"the alias was moved to {state.adapter or 'the base model'} by hand during the canary"
                return Exit(RoundState.FAILED, moved)  # nothing speaks against it, nor against what it learned
            found = await asyncio.to_thread(self._look, round_.number, stage)
            round_ = found.round
            if first:
                await looked()
            first = False
            left = self._exit(found)
            if left is None and (breach := await compared(round_)) is not None:
                left = Exit(RoundState.ROLLED_BACK, str(breach))
            if left is not None:
                return left
            if found.seen.decision == "pass" and found.frozen is None:
                log.info("round %d: %s", round_.number, found.seen.reason)
                if self._is_last(round_):
                    return None
                await asyncio.to_thread(tools.stores.canaries.next_stage, round_.number, state.generation)
                continue
            await asyncio.sleep(LOOK_S)

    def _look(self, number: int, stage: Moment) -> _Look:
        """Blocking. What is new of it is kept."""
        stores = self._tools.stores
        round_ = stores.rounds.get(number)
        if round_ is None or round_.canary is None or round_.state is not RoundState.CANARY:
            raise StateConflict(f"round {number} is in its canary no longer")
        adapter = str(round_.adapter)
        age_s = stage.age_s(round_.canary["stage_at"])
        seen = look(self._config.rollout, round_.canary, stores.canaries.counted(adapter), age_s)
        frozen = stores.freezes.get()
        said = None if frozen is None else frozen.said()
        record = {**seen.record(), **({} if said is None else {"reason": said, "lacks": False})}
        if any(round_.canary.get(name) != value for name, value in record.items()):
            stores.canaries.note(number, record)
        return _Look(round_, seen, stores.retractions.unclean(adapter), said)

    def _exit(self, found: _Look) -> Exit | None:
        seen = found.seen
        kept = {"canary": {**(found.round.canary or {}), **seen.record()}}
        if found.unclean is not None:
            return Exit(RoundState.FAILED, descends_from(found.unclean), kept)
        if seen.decision == "breach":
            return Exit(RoundState.ROLLED_BACK, seen.reason, kept)
        if seen.decision == "late" and found.frozen is None:
            return Exit(RoundState.INCONCLUSIVE, seen.reason, kept)
        return None

    def _is_last(self, round_: Round) -> bool:
        record = round_.canary or {}
        return int(record["stage"]) + 1 >= len(record["shares"])
