"""Which replica gets a request: the least busy one that proved the adapter, and none that failed a moment ago.

Owns the choice, the count of what runs where, and the protocol to the gateway, which forwards requests. Not who is
healthy (membership) nor who is to be trusted (quarantine). Invariant: a request goes only to a replica that this
process has attested for its adapter.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol

from semievol.errors import AdapterError, TransientError
from semievol.http.server_address import ServerAddress
from semievold.serving.membership import Membership
from semievold.serving.replica import Replica, states_of
from semievold.serving.wanted import WantedAdapters

log = logging.getLogger(__name__)


class RestingError(TransientError):
    """Whoever could answer rests while a round trains on its GPU.

    again_s: when to ask again, seconds. returns: the rest is over, and what they held is being proved anew.
    """

    def __init__(self, text: str, again_s: int, *, returns: bool = False) -> None:
        super().__init__(text)
        self.again_s = again_s
        self.returns = returns


class ReservedError(TransientError):
    """Whoever could answer is asked something alone for a moment (see attestation), and can then."""


class ReplicaPool(Protocol):
    """Healthy replicas by the adapter version that they were attested for."""

    def lend(self, adapter: str | None, *, avoid: Collection[str] = ()) -> AbstractAsyncContextManager[ServerAddress]:
        """The least busy healthy replica attested for `adapter` (None: the base model), counted as busy in the block.

        `avoid` names replicas that just failed this request; they are taken only when there is no other.

        Raises:
            RestingError: all that answer rest, or have rested just now.
            ReservedError: who could answer is asked alone for a moment: wait for it.
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
        self.ask_again_s = 1
        """Of a client that nobody could answer because all rest."""

    @property
    def resting(self) -> str | None:
        """Why there is nobody to lend: all that answer rest; None: somebody does not."""
        reasons = {replica.resting for replica in self._members.with_leaving if replica.answers}
        return None if None in reasons else next(iter(reasons), None)

    def _all_away(self, adapter: str | None) -> bool:
        """Whether all that answer rest, or are on their way back from it."""
        answering = [replica for replica in self._members.with_leaving if replica.answers]
        return bool(answering) and all(replica.is_away(adapter) for replica in answering)

    @property
    def defect(self) -> str | None:
        """Why nobody can answer with what serves; None: somebody can."""
        name = self._wanted.serving
        if self._all_away(name):  # on purpose, and not for long: the gateway says so itself
            return None
        if any(replica.able(name) for replica in self._members.with_leaving):
            return None
        return f"no replica can answer with {name or 'the base model'}: {states_of(self._members.with_leaving)}"

    def lend(self, adapter: str | None, *, avoid: Collection[str] = ()) -> AbstractAsyncContextManager[ServerAddress]:
        """See ReplicaPool. An adapter that nobody is to have is an AdapterError, not a matter of time."""
        return _Lent(self, adapter, avoid)

    def choose(self, adapter: str | None, avoid: Collection[str]) -> Replica:
        """Who gets a request now; see `lend`."""
        able = [replica for replica in self._members.with_leaving if replica.takes(adapter)]
        if not able:
            if adapter is not None and adapter not in self._wanted:
                raise AdapterError(f"adapter {adapter} is not loaded")
            if (resting := self.resting) is not None:
                raise RestingError(f"no replica can answer now: {resting}", self.ask_again_s)
            if any(replica.able(adapter) for replica in self._members.with_leaving):
                raise ReservedError(f"who holds {adapter or 'the base model'} is asked alone for a moment")
            if self._all_away(adapter):
                text = "no replica can answer now: those that rested prove what they hold anew"
                raise RestingError(text, self.ask_again_s, returns=True)
            states = states_of(self._members.with_leaving)
            raise TransientError(f"no replica can answer with {adapter or 'the base model'} now: {states}")
        return min(able, key=lambda each: (each.name in avoid, each.left_at is not None, each.busy, random.random()))

    def failed(self, name: str, reason: str) -> None:
        """See ReplicaPool."""
        replica = self._members.get(name)
        if replica is None or not replica.answers:
            return
        log.warning("replica %s: %s", name, reason)
        replica.answers, replica.silence = False, reason
        replica.wake.set()


class _Lent:
    """What `lend` gives. A class, for a generator would cost each request as much as its parsing."""

    __slots__ = ("_adapter", "_avoid", "_lending", "_replica")

    def __init__(self, lending: Lending, adapter: str | None, avoid: Collection[str]) -> None:
        self._lending, self._adapter, self._avoid = lending, adapter, avoid
        self._replica: Replica | None = None

    async def __aenter__(self) -> ServerAddress:
        self._replica = self._lending.choose(self._adapter, self._avoid)
        self._replica.running[self._adapter] += 1
        return self._replica.address

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._replica is not None:
            self._replica.running[self._adapter] -= 1
