"""The vLLM replicas of this workload: all converge to what is wanted, and a version counts once they have proved it.

Owns a look at one replica, and how long the fleet waits for what the looks bring. The parts: who the replicas are
(membership), what they are to hold (wanted), who is taken out (quarantine), who gets a request (lending).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from semievol.errors import AdapterError, ConfigError, DataError, SemiEvolError, TransientError
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
        self._rests: frozenset[str] = frozenset()
        self._all_rest = False
        self._why = ""

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
        return [replica.view() for replica in self._members.with_leaving]

    async def looked(self) -> None:
        """Wait until a look at some replica has ended."""
        await self._members.looked()

    # --- who answers ----------------------------------------------------------------------------------------------

    def lend(self, adapter: str | None, *, avoid: Collection[str] = ()) -> AbstractAsyncContextManager[ServerAddress]:
        return self._lending.lend(adapter, avoid=avoid)

    def failed(self, name: str, reason: str) -> None:
        self._lending.failed(name, reason)

    # --- who rests ------------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Of all replicas that are known now."""
        return tuple(replica.name for replica in self._members.with_leaving)

    @property
    def resting(self) -> str | None:
        """Why nobody is lent: all that answer rest; None: somebody does not."""
        return self._lending.resting

    def rest(self, names: Collection[str], why: str = "", ask_again_s: int = 1, *, who_joins_too: bool = False) -> None:
        """Lend none of these from now on, and ask them nothing; who is not named any more proves all anew.

        Args:
            names: of who rests; empty: nobody.
            why: for people.
            ask_again_s: what a client is told when all rest.
            who_joins_too: also one that is not named, as it comes to be known.
        """
        self._rests, self._why, self._all_rest = frozenset(names), why, who_joins_too
        self._lending.ask_again_s = ask_again_s
        for replica in self._members.with_leaving:
            if self._let_rest(replica):
                replica.wake.set()

    async def asleep(self, names: Collection[str]) -> tuple[dict[str, bool], dict[str, str]]:
        """Whether each of these sleeps already, and who does not answer, and why; asked of who is to sleep.

        Raises:
            ConfigError: one of them cannot sleep, or may not.
        """
        replicas = self._named(names)
        calls = (self._reconciler.sleeps(replica) for replica in replicas)
        asleep: dict[str, bool] = {}
        silent: dict[str, str] = {}
        for replica, found in zip(replicas, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if isinstance(found, bool):
                asleep[replica.name] = found
            elif isinstance(found, TransientError):
                silent[replica.name] = str(found)
            else:
                raise found
        return asleep, silent

    def appearances(self) -> dict[str, int]:
        """Of each replica that answers: how often it has begun to."""
        return {replica.name: replica.appearances for replica in self._members.with_leaving if replica.answers}

    async def sleepers(self, names: Collection[str]) -> tuple[frozenset[str], frozenset[str]]:
        """Which of these sleep, and which do not say whether they do; asked of who should not."""
        replicas = self._named(names)
        calls = (self._reconciler.sleeps(replica) for replica in replicas)
        found = await asyncio.gather(*calls, return_exceptions=True)
        said = dict(zip((replica.name for replica in replicas), found, strict=True))
        asleep = frozenset(name for name, answer in said.items() if answer is True)
        return asleep, frozenset(name for name in names if not isinstance(said.get(name), bool))

    async def put_to_sleep(
        self, names: Collection[str], patience_s: float, check: Callable[[], Awaitable[None]]
    ) -> None:
        """Have these end what runs, and sleep. They must rest already, here and in all other processes.

        `check` is asked directly before each sleeps.

        Raises:
            ConfigError, TransientError: one of them does not sleep; the others may.
            SemiEvolError: what `check` raises; then the one that it was asked for does not sleep.
        """
        calls = (self._reconciler.put_to_sleep(replica, patience_s, check) for replica in self._named(names))
        failed = [each for each in await asyncio.gather(*calls, return_exceptions=True) if each is not None]
        if failed:
            raise failed[0]

    async def wake(self, names: Collection[str]) -> dict[str, str]:
        """Wake these; who does not wake, and why. One that is not among the replicas any more is let go."""
        replicas = self._named(names)
        calls = (self._reconciler.wake(replica) for replica in replicas)
        found = await asyncio.gather(*calls, return_exceptions=True)
        failing: dict[str, str] = {}
        for replica, error in zip(replicas, found, strict=True):
            if isinstance(error, ConfigError):  # it was started anew, as one that cannot sleep: it is awake
                log.warning("replica %s is taken to be awake: %s", replica.name, error)
            elif isinstance(error, SemiEvolError):
                failing[replica.name] = str(error)
            elif error is not None:
                raise error
        return failing

    def _named(self, names: Collection[str]) -> list[Replica]:
        return [replica for replica in self._members.with_leaving if replica.name in names]

    def _let_rest(self, replica: Replica) -> bool:
        """As `rest` said last; whether that is news."""
        reason = self._why if self._all_rest or replica.name in self._rests else None
        news = (reason is None) is not (replica.resting is None)
        replica.rest(reason)
        return news

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
        for replica in self._members.with_leaving:
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
                lambda: all(name not in each.models for each in self._members.replicas if _is_asked(each)),
                self._timeout_s,
            )

    async def loaded(self) -> frozenset[str]:
        """What any replica holds of this workload, also one that does not answer now: it may still read the files."""
        replicas = self._members.with_leaving
        held = {name for replica in replicas for name in replica.adapters if self._reconciler.owns(name)}
        return frozenset(held | {adapter.name for adapter in self._wanted.in_order()})

    async def load_adapter(self, name: str, path: Path) -> None:
        raise AdapterError(f"adapter {name}: versions are loaded into replicas by the controller alone")

    async def unload_adapter(self, name: str) -> None:
        await self.unload(name)

    async def loaded_adapters(self) -> frozenset[str]:
        return await self.loaded()

    def _want(self, adapter: HeldAdapter) -> None:
        self._wanted.add(adapter, lambda name: any(replica.running[name] for replica in self._members.with_leaving))
        self._members.wake_all()

    async def _proof_within(self, name: str) -> Proof:
        """Wait until the replicas have proved `name`, or the time is up; a rest takes longer than that."""
        if (resting := self.resting) is not None:
            raise TransientError(f"no replica answers: {resting}")
        self._members.wake_all()
        await self._members.wait(lambda: self._proof(name).passed, self._timeout_s)
        if not any(_is_asked(replica) for replica in self._members.replicas):
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
        take_out_wrong(self._members.with_leaving, self._wanted.serving)

    async def _bring_nearer(self, replica: Replica) -> None:
        self._let_rest(replica)  # also one that has just joined
        rests = replica.rests
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
        if not self._wants_known or replica.resting is not None or replica.rests != rests:
            return
        wanted = self._wanted
        try:
            await self._reconciler.tend(replica, wanted.in_order(), wanted.serving, wanted.protected)
        except (TransientError, AdapterError, DataError) as error:  # the next look says whether it still answers
            log.warning("replica %s: %s", replica.name, error)


def _is_asked(replica: Replica) -> bool:
    """Whether anything is to be learned from it now."""
    return replica.answers and replica.resting is None
