"""What a process does that does not lead: follows in the state what the leader decides.

Owns the way from the alias's row to this process, and the news that the warm round has ended. Invariant: the alias
is followed only when the version it names is loaded here, so that no request is bound to one that cannot answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from semievol.errors import AdapterError, SemiEvolError
from semievold.retry import set_within
from semievold.serving.alias import Alias
from semievold.serving.fleet import AdapterFleet
from semievold.store.aliases import AliasState, Canary
from semievold.store.stores import Stores

log = logging.getLogger(__name__)

FOLLOW_S = 0.5
DRAIN_S = 5.0


class StateFollower:
    """Looks at the state twice a second.

    Args:
        leads: whether this process leads; then it moves the alias itself, and only the warm round is looked for.
    """

    def __init__(
        self,
        stores: Stores,
        alias: Alias,
        fleet: AdapterFleet,
        leads: Callable[[], bool],
    ) -> None:
        self._stores = stores
        self._alias = alias
        self._fleet = fleet
        self._leads = leads
        self.warm_ended = asyncio.Event()
        self.defect: str | None = None
        """Why the version that the alias names cannot be loaded here; None: it is."""
        self.away: str | None = None
        """Why the alias cannot be followed now; None: it is. What it named last goes on serving."""

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until stopped, also while the state is away, or refuses us: what is known goes on being served."""
        while not stop.is_set():
            try:
                await self.look()
            except SemiEvolError as error:
                if self.away is None:
                    still = self._alias.adapter or "the base model"
                    log.warning("the alias cannot be followed for now, and stands for %s still: %s", still, error)
                self.away = str(error)
            else:
                if self.away is not None:
                    log.info("the alias is followed again")
                self.away = None
            await set_within(stop, FOLLOW_S)

    async def look(self) -> None:
        """One look.

        Raises:
            SemiEvolError: the state or the engine did not answer, or refused; nothing was followed.
        """
        stored = await asyncio.to_thread(self._stores.alias.get)
        if self._leads():
            self.defect = None  # what the leader cannot load, its fleet tells
        elif stored.generation > self._alias.state.generation:
            await self._follow(stored)
        else:
            await self._fleet.settle()
        if not self.warm_ended.is_set() and (
            self._alias.state.promoted or await asyncio.to_thread(self._stores.rounds.warm_ended)
        ):
            self.warm_ended.set()

    async def _follow(self, stored: AliasState) -> None:
        known = self._alias.state
        # What answers here already is not waited for again: leaving a version must not take time.
        if stored.adapter is not None and (stored.adapter != known.adapter or self.defect is not None):
            try:
                await self._fleet.load(stored.adapter)
            except AdapterError as error:
                if self.defect != str(error):
                    log.error("the alias names a version that cannot be loaded here: %s", error)
                self.defect = str(error)
                return
        self.defect = None
        if stored.canary is not None and stored.canary.adapter != self._alias.canary:
            try:
                await self._fleet.load(stored.canary.adapter)
            except AdapterError as error:  # its requests are answered by what serves, and count against it
                log.error("the version on trial cannot be loaded here: %s", error)
        if (await asyncio.to_thread(self._stores.alias.get)).generation != stored.generation:
            return  # loading took its time, and the alias has moved on meanwhile: the next look follows that
        self._alias.follow(stored)
        await self._fleet.settle()
        if (stored.adapter, stored.previous) != (known.adapter, known.previous):
            log.info("the alias stands for %s now", stored.adapter or "the base model")
        if stored.canary != known.canary:
            log.info("on trial: %s", "nothing" if stored.canary is None else _said(stored.canary))
        round_ = await asyncio.to_thread(self._stores.rounds.open)
        # The candidate of an open round is the leader's, which may share the engine.
        keep = frozenset() if round_ is None or round_.adapter is None else frozenset({round_.adapter})
        await self._fleet.release(DRAIN_S, keep)


def _said(canary: Canary) -> str:
    return f"{canary.adapter}, for {canary.share:.3g} of the clients"
