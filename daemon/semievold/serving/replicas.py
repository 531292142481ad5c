"""The vLLM replicas of this workload: all converge to what is wanted, and a version counts once they have proved it.

Owns a look at one replica, and how long the fleet waits for what the looks bring. The parts: who the replicas are
(membership), what they are to hold (wanted), who is taken out (quarantine), who gets a request (lending).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from semievol.errors import AdapterError, DataError, TransientError
from semievol.http.errors import ServerDownError
from semievol.http.server_address import ServerAddress
from semievold.config.generation import GenerationConfig
from semievold.serving.adapter_servers import HeldAdapter
from semievold.serving.attestation import Proof
from semievold.serving.lending import Lending
from semievold.serving.membership import Membership
from semievold.serving.quarantine import joint_proof, take_out_wrong
from semievold.serving.reconciler import ReplicaReconciler
from semievold.serving.replica import Replica, ReplicaView, states_of
from semievold.serving.wanted import WantedAdapters

log = logging.getLogger(__name__)

_FIRST_LOOK_S = 30.0
_SLOW_LOOKS = 2


class ReplicaSet:
    """Implements AdapterServers for the fleet, ReplicaPool for the gateway and ServerPool for the generator."""

    def __init__(
        self, config: GenerationConfig, reconciler: ReplicaReconciler, *, min_share: float, timeout_s: float
    ) -> None:
        """Ask nobody yet; `start` does.

        Args:
            config: addresses, key and intervals.
            reconciler: what talks to a replica.
            min_share: of the replicas that answer, what must have passed before a version counts as proved.
            timeout_s: how long `load` and `prove` wait for that.
        """
        self._reconciler = reconciler
        self._min_share = min_share
        self._timeout_s = timeout_s
        self._members = Membership(config, self._look_at)
        self._wanted = WantedAdapters(config.max_adapters)
        self._wants_known = False
        self._lending = Lending(self._members, self._wanted)

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to look at the replicas."""
        await self._members.start()

    async def run(self, stop: asyncio.Event) -> None:
        """Until stopped; an unexpected end of the watch is raised here."""
        await self._members.run(stop)

    async def close(self) -> None:
        await self._members.close()

    def show(self) -> list[ReplicaView]:
        """Every replica as it is now, for metrics and people."""
        return [replica.view() for replica in self._members.replicas]

    async def looked(self) -> None:
        """Wait until a look at some replica has ended."""
        await self._members.looked()

    # --- who answers ----------------------------------------------------------------------------------------------

    def lend(self, adapter: str | None, *, avoid: Collection[str] = ()) -> AbstractAsyncContextManager[ServerAddress]:
        return self._lending.lend(adapter, avoid=avoid)

    def failed(self, name: str, reason: str) -> None:
        self._lending.failed(name, reason)

    # --- what is held ---------------------------------------------------------------------------------------------

    @property
    def defect(self) -> str | None:
        return self._lending.defect

    def protect(self, names: frozenset[str]) -> None:
        self._wanted.protected = names

    async def keep(
        self, serving: HeldAdapter | None, previous: HeldAdapter | None, canary: HeldAdapter | None = None
    ) -> None:
        """At the first call, wait until every replica was looked at once, so that the fronts find their adapter."""
        self._wanted.keep(serving, previous)
        if canary is not None:
            self._want(canary)
        first, self._wants_known = not self._wants_known, True
        self._members.wake_all()
        if first:
            looked = {replica.name: replica.looks for replica in self._members.replicas}
            await self._members.wait(
                lambda: all(self._looks(name) > looks + 1 for name, looks in looked.items()), _FIRST_LOOK_S
            )

    async def load(self, adapter: HeldAdapter) -> None:
        self._reconciler.served_path(adapter)
        self._want(adapter)
        proof = await self._proof_within(adapter.name)
        if not proof.passed:
            raise AdapterError(f"adapter {adapter.name}: {proof.reason}")

    async def prove(self, adapter: HeldAdapter) -> Proof:
        self._want(adapter)
        for replica in self._members.replicas:
            replica.to_prove_again.add(adapter.name)
        return await self._proof_within(adapter.name)

    async def unload(self, name: str) -> None:
        """Not wanted from now on; each replica forgets it when no request of this process runs on it any more.

        A process that does not lead only stops wanting it: the leader has it unloaded.
        """
        self._wanted.drop(name)
        self._members.wake_all()
        if self._reconciler.loads():
            await self._members.wait(
                lambda: all(name not in each.models for each in self._members.replicas if each.answers),
                self._timeout_s,
            )

    async def loaded(self) -> frozenset[str]:
        """What any replica holds of this workload, also one that does not answer now: it may still read the files."""
        replicas = self._members.replicas
        held = {name for replica in replicas for name in replica.adapters if self._reconciler.owns(name)}
        return frozenset(held | {adapter.name for adapter in self._wanted.in_order()})

    async def load_adapter(self, name: str, path: Path) -> None:
        raise AdapterError(f"adapter {name}: versions are loaded into replicas by the controller alone")

    async def unload_adapter(self, name: str) -> None:
        await self.unload(name)

    async def loaded_adapters(self) -> frozenset[str]:
        return await self.loaded()

    def _want(self, adapter: HeldAdapter) -> None:
        self._wanted.add(adapter, lambda name: any(replica.running[name] for replica in self._members.replicas))
        self._members.wake_all()

    async def _proof_within(self, name: str) -> Proof:
        """Wait until the replicas have proved `name`, or the time is up."""
        self._members.wake_all()
        await self._members.wait(lambda: self._proof(name).passed, self._timeout_s)
        if not any(replica.answers for replica in self._members.replicas):
            raise TransientError(f"no replica answers: {states_of(self._members.replicas)}")
        return self._proof(name)

    def _proof(self, name: str) -> Proof:
        leads = self._reconciler.loads()
        return joint_proof(self._members.replicas, name, min_share=self._min_share, leads=leads)

    def _looks(self, name: str) -> float:
        replica = self._members.get(name)
        return math.inf if replica is None else replica.looks

    # --- a look ---------------------------------------------------------------------------------------------------

    async def _look_at(self, replica: Replica) -> None:
        """Bring it nearer to what is wanted, and judge all anew."""
        await self._bring_nearer(replica)
        take_out_wrong(self._members.replicas, self._wanted.serving)

    async def _bring_nearer(self, replica: Replica) -> None:
        try:
            await self._reconciler.look(replica)
        except TransientError as error:
            replica.slow_looks += 1
            if replica.answers and replica.slow_looks < _SLOW_LOOKS and not isinstance(error, ServerDownError):
                return  # late, as under load: one more chance before all that it proved is forgotten
            if replica.answers or replica.looks == 0:
                log.warning("replica %s does not answer: %s", replica.name, error)
            replica.fell_silent(str(error))
            return
        replica.slow_looks = 0
        if not self._wants_known:
            return
        wanted = self._wanted
        try:
            await self._reconciler.tend(replica, wanted.in_order(), wanted.serving, wanted.protected)
        except (TransientError, AdapterError, DataError) as error:  # the next look says whether it still answers
            log.warning("replica %s: %s", replica.name, error)
