"""Which replica gets a request: the least busy one that proved the adapter, and none that failed a moment ago.

Owns the choice, the count of what runs where, and the protocol to the gateway, which forwards requests. Not who is
healthy (membership) nor who is to be trusted (quarantine). Invariant: a request goes only to a replica that this
process has attested for its adapter.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from semievol.errors import AdapterError, TransientError
from semievol.http.server_address import ServerAddress
from semievold.serving.membership import Membership
from semievold.serving.replica import states_of
from semievold.serving.wanted import WantedAdapters

log = logging.getLogger(__name__)


class ReplicaPool(Protocol):
    """Healthy replicas by the adapter version that they were attested for."""

    def lend(self, adapter: str | None, *, avoid: Collection[str] = ()) -> AbstractAsyncContextManager[ServerAddress]:
        """The least busy healthy replica attested for `adapter` (None: the base model), counted as busy in the block.

        `avoid` names replicas that just failed this request; they are taken only when there is no other.

        Raises:
            TransientError: no replica can answer with this adapter now.
        """
        ...

    def failed(self, name: str, reason: str) -> None:
        """The replica did not answer: no new request goes there until it answers its health check again."""
        ...


class Lending:
    """Lends replicas to requests."""

    def __init__(self, members: Membership, wanted: WantedAdapters) -> None:
        self._members = members
        self._wanted = wanted

    @property
    def defect(self) -> str | None:
        """Why nobody can answer with what serves; None: somebody can."""
        name = self._wanted.serving
        if any(replica.takes(name) for replica in self._members.replicas):
            return None
        return f"no replica can answer with {name or 'the base model'}: {states_of(self._members.replicas)}"

    @asynccontextmanager
    async def lend(self, adapter: str | None, *, avoid: Collection[str] = ()) -> AsyncIterator[ServerAddress]:
        """See ReplicaPool. An adapter that nobody is to have is an AdapterError, not a matter of time."""
        able = [replica for replica in self._members.replicas if replica.takes(adapter)]
        if not able:
            if adapter is not None and adapter not in self._wanted:
                raise AdapterError(f"adapter {adapter} is not loaded")
            states = states_of(self._members.replicas)
            raise TransientError(f"no replica can answer with {adapter or 'the base model'} now: {states}")
        replica = min(able, key=lambda each: (each.name in avoid, each.busy, random.random()))
        replica.running[adapter] += 1
        try:
            yield replica.address
        finally:
            replica.running[adapter] -= 1

    def failed(self, name: str, reason: str) -> None:
        """See ReplicaPool."""
        replica = self._members.get(name)
        if replica is None or not replica.answers:
            return
        log.warning("replica %s: %s", name, reason)
        replica.answers, replica.silence = False, reason
        replica.wake.set()
