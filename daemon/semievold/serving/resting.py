"""Takes over from the state which replicas rest (training.share_gpu), in every process that lends replicas.

Owns the way from the row to this process's replicas. Invariant: what is taken over is never older than what was taken
over before it.
"""

from __future__ import annotations

import asyncio
import logging

from semievol.errors import SemiEvolError
from semievold.retry import set_within
from semievold.serving.following import FOLLOW_S
from semievold.serving.replicas import ReplicaSet
from semievold.store.rollout.rests import Rest, RestStore

log = logging.getLogger(__name__)


class RestFollower:
    """Looks at the row twice a second, and when it is told to.

    all_share: every replica is on the GPU that trains, also one that joins, or comes back under another address.
    """

    def __init__(self, rests: RestStore, replicas: ReplicaSet, *, all_share: bool = False) -> None:
        self._rests = rests
        self._replicas = replicas
        self._all_share = all_share
        self._known: Rest | None = None
        self._turn = asyncio.Lock()

    async def run(self, stop: asyncio.Event) -> None:
        """Look until stopped, in a task of its own: what else is followed may take minutes, and a leader counts on each
        process to have read the row within a second. While the state is away, who rests goes on resting.
        """
        away = False
        while not stop.is_set():
            try:
                await self.look()
            except SemiEvolError as error:
                if not away:
                    log.warning("it is not known for now which replicas rest: %s", error)
                away = True
            else:
                away = False
            await set_within(stop, FOLLOW_S)

    async def look(self) -> None:
        """Let rest whom the row names, and whoever joins them while a round trains; nobody else.

        Raises:
            TransientError: the state does not answer; who rests goes on resting.
        """
        async with self._turn:
            rest = await asyncio.to_thread(self._rests.get)
            if rest != self._known:
                log.info("%s", "no replica rests any more" if rest is None else rest.said())
            self._known = rest
            if rest is None:
                self._replicas.rest(())
            else:
                joining = self._all_share and not rest.waking
                again_s = rest.ask_again_s(self._rests.now)
                self._replicas.rest(rest.replicas, rest.said(), again_s, who_joins_too=joining)
