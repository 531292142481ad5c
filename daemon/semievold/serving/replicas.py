"""The vLLM replicas of this workload: who is healthy, who may answer with which adapter, and that all converge.

Owns the set of replicas (a list, or a DNS name resolved again and again), what they are wanted to hold, the loop that
looks at each, and who gets a request. Invariants: a request goes only to a replica that this process has attested for
its adapter; a replica that fails where another one passes is quarantined, and gets no request until it passes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from semievol.engines.vllm_client import ServerDownError
from semievol.errors import AdapterError, DataError, TransientError
from semievold.config.generation import GenerationConfig
from semievold.serving.adapter_servers import HeldAdapter, summary
from semievold.serving.attestation import Proof
from semievold.serving.reconciler import ReplicaReconciler
from semievold.serving.replica import Replica, ReplicaView
from semievold.serving.upstream import Upstream

log = logging.getLogger(__name__)

_FIRST_LOOK_S = 30.0
_SLOW_LOOKS = 2


class ReplicaSet:
    """Implements ReplicaPool for the gateway, ServerPool for the generator and AdapterServers for the fleet."""

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
        self._config = config
        self._reconciler = reconciler
        self._min_share = min_share
        self._timeout_s = timeout_s
        self._replicas: dict[str, Replica] = {}
        self._serving: HeldAdapter | None = None
        self._previous: HeldAdapter | None = None
        self._others: dict[str, HeldAdapter] = {}
        self._protected: frozenset[str] = frozenset()
        self._wants_known = False
        self._changed = asyncio.Condition()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to look at the replicas."""
        await self._follow_addresses()
        self._watch = asyncio.create_task(self._keep_watching(), name="replicas")

    async def run(self, stop: asyncio.Event) -> None:
        """Until stopped; an unexpected end of the watch is raised here."""
        assert self._watch is not None
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, self._watch}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._watch.done() and not stop.is_set():
            self._watch.result()

    async def close(self) -> None:
        tasks = [*self._tasks.values(), *([self._watch] if self._watch is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return tuple(self._replicas.values())

    def show(self) -> list[ReplicaView]:
        """Every replica as it is now, for metrics and people."""
        return [replica.view() for replica in self._replicas.values()]

    async def looked(self) -> None:
        """Wait until a look at some replica has ended."""
        async with self._changed:
            await self._changed.wait()

    # --- who answers ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lend(self, adapter: str | None, *, avoid: Collection[str] = ()) -> AsyncIterator[Upstream]:
        """See ReplicaPool. An adapter that nobody is to have is an AdapterError, not a matter of time."""
        able = [replica for replica in self._replicas.values() if replica.takes(adapter)]
        if not able:
            if adapter is not None and adapter not in {wanted.name for wanted in self._wanted()}:
                raise AdapterError(f"adapter {adapter} is not loaded")
            raise TransientError(f"no replica can answer with {adapter or 'the base model'} now: {self._states()}")
        replica = min(able, key=lambda each: (each.name in avoid, each.busy, random.random()))
        replica.running[adapter] += 1
        try:
            yield replica.upstream
        finally:
            replica.running[adapter] -= 1

    def failed(self, name: str, reason: str) -> None:
        replica = self._replicas.get(name)
        if replica is None or not replica.answers:
            return
        log.warning("replica %s: %s", name, reason)
        replica.answers, replica.silence = False, reason
        replica.wake.set()

    # --- what is held ---------------------------------------------------------------------------------------------

    @property
    def defect(self) -> str | None:
        name = None if self._serving is None else self._serving.name
        if any(replica.takes(name) for replica in self._replicas.values()):
            return None
        return f"no replica can answer with {name or 'the base model'}: {self._states()}"

    def protect(self, names: frozenset[str]) -> None:
        self._protected = names

    async def keep(self, serving: HeldAdapter | None, previous: HeldAdapter | None) -> None:
        """At the first call, wait until every replica was looked at once, so that the fronts find their adapter."""
        for old in (self._serving, self._previous):
            if old is not None:
                self._others.setdefault(old.name, old)
        self._serving, self._previous = serving, previous
        for kept in (serving, previous):
            if kept is not None:
                self._others.pop(kept.name, None)
        first, self._wants_known = not self._wants_known, True
        self._wake_all()
        if first:
            looked = {replica.name: replica.looks for replica in self._replicas.values()}
            await self._wait(
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
        for replica in self._replicas.values():
            replica.to_prove_again.add(adapter.name)
        return await self._proof_within(adapter.name)

    async def unload(self, name: str) -> None:
        """Not wanted from now on; each replica forgets it when no request of this process runs on it any more.

        A process that does not lead only stops wanting it: the leader has it unloaded.
        """
        self._others.pop(name, None)
        self._wake_all()
        if self._reconciler.loads():
            await self._wait(lambda: all(name not in r.models for r in self.replicas if r.answers), self._timeout_s)

    async def loaded(self) -> frozenset[str]:
        """What any replica holds of this workload, also one that does not answer now: it may still read the files."""
        held = {name for replica in self._replicas.values() for name in replica.adapters if self._reconciler.owns(name)}
        return frozenset(held | {adapter.name for adapter in self._wanted()})

    async def load_adapter(self, name: str, path: Path) -> None:
        raise AdapterError(f"adapter {name}: versions are loaded into replicas by the controller alone")

    async def unload_adapter(self, name: str) -> None:
        await self.unload(name)

    async def loaded_adapters(self) -> frozenset[str]:
        return await self.loaded()

    def _wanted(self) -> list[HeldAdapter]:
        """Most important first: what serves, then what a round proposes, then what a rollback would serve."""
        kept = [self._serving, *reversed(self._others.values()), self._previous]
        return [adapter for adapter in kept if adapter is not None]

    def _want(self, adapter: HeldAdapter) -> None:
        """Take it among the wanted ones; where there are too many, those that nobody uses give way, oldest first."""
        if adapter.name in {wanted.name for wanted in self._wanted()}:
            return
        idle = [
            name
            for name in self._others
            if name not in self._protected and not any(replica.running[name] for replica in self.replicas)
        ]
        while idle and len(self._wanted()) >= self._config.max_adapters:
            self._others.pop(idle.pop(0))
        self._others[adapter.name] = adapter
        self._wake_all()

    # --- proofs ---------------------------------------------------------------------------------------------------

    async def _proof_within(self, name: str) -> Proof:
        """Wait until the replicas have proved `name`, or the time is up."""
        self._wake_all()
        await self._wait(lambda: self._proof(name).passed, self._timeout_s)
        if not any(replica.answers for replica in self.replicas):
            raise TransientError(f"no replica answers: {self._states()}")
        return self._proof(name)

    def _proof(self, name: str) -> Proof:
        """Passed when all that answer and are not quarantined passed, and they are enough of those that answer."""
        answering = [replica for replica in self.replicas if replica.answers]
        if not self._reconciler.loads():  # who the leader did not give it to, or took it from, is not ours to wait for
            answering = [replica for replica in answering if name in replica.models]
        verdicts = {replica.name: replica.verdict(name) for replica in answering}
        passed = [replica for replica in answering if (verdict := verdicts[replica.name]) and verdict.passed]
        open_ones = [replica for replica in answering if replica not in passed and replica.blamed is None]
        enough = max(1, math.ceil(self._min_share * len(answering)))
        known = {each: verdict for each, verdict in verdicts.items() if verdict is not None}
        if answering and not open_ones and len(passed) >= enough:
            return Proof(True, f"{len(passed)} of {len(answering)} replicas serve the trained weights", known)
        failing = [(each, verdict) for each, verdict in verdicts.items() if verdict is None or not verdict.passed]
        reason = f"{len(passed)} of {len(answering)} replicas passed, {enough} needed and no open one: "
        return Proof(False, reason + (summary(failing) or self._states()), known)

    def _blame(self) -> None:
        """Who fails where another passes, or fails what serves, is at fault itself; where all fail, the adapter is."""
        serving = None if self._serving is None else self._serving.name
        for replica in self.replicas:
            reason = None
            for name, fault in replica.faults.items():
                others_pass = any(name in other.marks for other in self.replicas if other is not replica)
                if fault.of_replica and (others_pass or name == serving):
                    reason = f"{name}: {fault.attestation.reason}"
            if reason is not None and replica.blamed is None:
                log.error("replica %s is quarantined: %s", replica.name, reason)
            replica.blamed = reason

    # --- the loops ------------------------------------------------------------------------------------------------

    async def _keep_watching(self) -> None:
        """Follow the addresses; a replica's own loop that ends is a defect of ours and ends this one."""
        while True:
            if self._tasks:
                done, _ = await asyncio.wait(
                    self._tasks.values(), timeout=self._config.dns_interval_s, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
            else:  # the name stands for nobody yet
                await asyncio.sleep(self._config.dns_interval_s)
            await self._follow_addresses()

    async def _follow_addresses(self) -> None:
        try:
            upstreams = await addresses(self._config)
        except OSError as error:
            log.warning(
                "generation.dns: %s cannot be resolved (%s); the replicas known so far stay", self._config.dns, error
            )
            return
        for name in self._replicas.keys() - {upstream.name for upstream in upstreams}:
            log.info("replica %s is gone from the name's addresses", name)
            self._tasks.pop(name).cancel()
            del self._replicas[name]
        for upstream in upstreams:
            if upstream.name not in self._replicas:
                replica = self._replicas[upstream.name] = Replica(upstream)
                task = asyncio.create_task(self._care_for(replica), name=f"replica-{upstream.name}")
                self._tasks[upstream.name] = task

    async def _care_for(self, replica: Replica) -> None:
        """Look at it again and again; at once when it is woken."""
        while True:
            replica.wake.clear()
            await self._look_at(replica)
            replica.looks += 1
            self._blame()
            async with self._changed:
                self._changed.notify_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.watch_interval_s):
                    await replica.wake.wait()

    async def _look_at(self, replica: Replica) -> None:
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
        try:
            serving = None if self._serving is None else self._serving.name
            await self._reconciler.tend(replica, self._wanted(), serving, self._protected)
        except (TransientError, AdapterError, DataError) as error:  # the next look says whether it still answers
            log.warning("replica %s: %s", replica.name, error)

    # --- small ----------------------------------------------------------------------------------------------------

    def _wake_all(self) -> None:
        for replica in self._replicas.values():
            replica.wake.set()

    def _looks(self, name: str) -> float:
        replica = self._replicas.get(name)
        return math.inf if replica is None else replica.looks

    def _states(self) -> str:
        views = (f"{view.name} {view.state}{view.reason and f' ({view.reason})'}" for view in self.show())
        return "; ".join(views) or "there are none"

    async def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Until `condition` holds or the time is up; it is asked after every look at a replica."""
        deadline = time.monotonic() + timeout_s
        async with self._changed:
            while not condition():
                try:
                    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                        await self._changed.wait()
                except TimeoutError:
                    return condition()
        return True


async def addresses(config: GenerationConfig) -> list[Upstream]:
    """The replicas that are configured; a name stands for all that it resolves to.

    Raises:
        OSError: `generation.dns` cannot be resolved.
    """
    urls: Sequence[str] = config.replicas
    if config.dns is not None:
        parts = urlsplit(config.dns)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        hosts = sorted({str(address[0]) for *_, address in found})
        urls = [f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host in hosts]
    headers = {} if config.api_key is None else {"Authorization": f"Bearer {config.api_key}"}
    return [Upstream(urlsplit(url).netloc, url, headers, config.base_name) for url in urls]
