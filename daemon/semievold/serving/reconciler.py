"""Brings one replica to what is wanted: warm, the wanted adapters loaded and proved, the others unloaded.

Owns the requests to one replica that no client sent. Owns neither what is wanted nor when to look (replicas).
Invariant: only the leading controller loads and unloads; every process proves for itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path, PurePosixPath

from semievol import adapter_directory
from semievol.engines.patience import TIMES
from semievol.engines.vllm_client import NotThereError, VllmClient
from semievol.errors import AdapterError, ConfigError, DataError, TransientError
from semievol.types import Completion, GenerationRequest, Message
from semievold.serving.adapter_servers import HeldAdapter
from semievold.serving.attestation import Attestation, answered_by_all, attest, none_answered
from semievold.serving.replica import Replica

log = logging.getLogger(__name__)

LATE_TRIES = 4
"""So often a replica may lack an adapter's files, 15 s in all, before that counts against it: what brings them to it, a
shared volume or `semievold sync-adapters`, may take a moment."""
_DRAIN_LOOK_S = 0.1
_WARM_UP = GenerationRequest((Message("user", "?"),), max_tokens=1)


class ReplicaReconciler:
    """Talks to replicas on the daemon's behalf."""

    def __init__(
        self,
        client: VllmClient,
        *,
        dtype: str,
        workload: str,
        adapters_directory: Path,
        adapters_path: str | None,
        max_adapters: int,
        timeout_s: float,
        loads: Callable[[], bool],
    ) -> None:
        """Keep the settings.

        Args:
            client: speaks to the replicas.
            dtype: of the model; decides how exactly fingerprints must agree.
            workload: its versions, and nobody else's, are unloaded when nobody wants them.
            adapters_directory: where versions are published; nothing outside it is ever loaded.
            adapters_path: the same directory as the replicas see it. None: the same path.
            max_adapters: versions of this workload on a replica at a time.
            timeout_s: of one answer.
            loads: whether this process is, just now, the one that loads and unloads.
        """
        self._client = client
        self._dtype = dtype
        self._workload = workload
        self._directory = adapters_directory.resolve()
        self._path = PurePosixPath(adapters_path or str(self._directory))
        self._max_adapters = max_adapters
        self._longest_s = TIMES * timeout_s  # as patience has it: a slow replica is warmed up and proved, too
        self.loads = loads
        self._one_at_a_time = asyncio.Lock()

    async def look(self, replica: Replica) -> None:
        """Ask for its health and its models.

        Raises:
            TransientError: it does not answer.
        """
        await self._client.check_health(replica.address)
        models = await self._client.models(replica.address)
        if not replica.answers:
            log.info("replica %s answers", replica.name)
        replica.was_seen(models)

    async def tend(
        self, replica: Replica, wanted: Sequence[HeldAdapter], serving: str | None, protected: frozenset[str]
    ) -> None:
        """Warm it up, unload what nobody wants, load and prove the rest, in the order of `wanted`.

        `protected` names what is never unloaded, wanted or not.

        Raises:
            TransientError: it stopped answering meanwhile.
        """
        if not replica.warm:
            await self._client.complete(replica.address, _WARM_UP, self._longest_s)
            replica.warm = True
        if self.loads():
            await self._unload_unwanted(replica, protected | {adapter.name for adapter in wanted})
        for adapter in wanted:
            if replica.resting is not None:
                return
            if replica.needs_proof(adapter.name) and (self.loads() or adapter.name in replica.models):
                await self._prove(replica, adapter, serving)

    async def sleeps(self, replica: Replica) -> bool:
        """Whether it sleeps; asked of one that is to sleep.

        Raises:
            ConfigError: it is not set up to sleep, or holds what would be lost in it.
            TransientError: it does not answer.
        """
        asleep = await self._client.is_sleeping(replica.address)
        others = sorted(name for name in await self._client.models(replica.address) if self._is_anothers(name))
        if others:
            raise ConfigError(
                f"training.share_gpu: replica {replica.name} holds {others[0]} of another workload, which its sleep "
                "would lose; servers that sleep are one workload's"
            )
        return asleep

    async def put_to_sleep(self, replica: Replica, patience_s: float, check: Callable[[], Awaitable[None]]) -> None:
        """Unload this workload's versions, let end what was asked, and have it sleep.

        Whoever asks it all the same, because it has not heard of it, is told that the adapter is not there. `check` is
        asked when all has ended, which may have taken long: what it raises keeps the replica awake.

        Raises:
            ConfigError: it is not set up to sleep.
            TransientError: it does not sleep within `patience_s`.
        """
        deadline = time.monotonic() + patience_s
        if not await self._client.is_sleeping(replica.address):
            await self._unload_all(replica)
            # It would end by itself what runs, and keep what is in its queue until it wakes.
            while left := replica.busy + await self._client.unfinished(replica.address):
                if time.monotonic() > deadline:
                    raise TransientError(f"{replica.name}: works on {left} requests still, after {patience_s:.0f} s")
                await asyncio.sleep(_DRAIN_LOOK_S)
        await check()
        # Also of one that says that it sleeps: it says so from the moment that a sleep was asked of it, though what
        # runs has its memory still. This ends when that has ended.
        await self._client.sleep(replica.address, max(1.0, deadline - time.monotonic()))
        if not await self._client.is_sleeping(replica.address):
            raise TransientError(f"{replica.name}: was told to sleep, and says that it does not")
        log.info("replica %s sleeps", replica.name)

    async def wake(self, replica: Replica) -> None:
        """Wake it if it sleeps, and unload what it still lists: its engine has lost it.

        Raises:
            ConfigError: it is not set up to sleep.
            TransientError: it does not wake.
        """
        if await self._client.is_sleeping(replica.address):
            await self._client.wake_up(replica.address)
            if await self._client.is_sleeping(replica.address):
                raise TransientError(f"{replica.name}: was told to wake, and says that it sleeps")
        await self._unload_all(replica)
        log.info("replica %s is awake", replica.name)

    async def _unload_all(self, replica: Replica) -> None:
        for name in sorted(await self._client.models(replica.address)):
            if self.owns(name):
                await self._client.unload(replica.address, name)

    def _is_anothers(self, name: str) -> bool:
        return adapter_directory.is_version(name) and not self.owns(name)

    def owns(self, name: str) -> bool:
        """Whether an adapter of that name is this workload's."""
        return adapter_directory.is_version_of(name, self._workload)

    def served_path(self, adapter: HeldAdapter) -> str:
        """The adapter's directory as the replicas see it.

        Raises:
            AdapterError: its name is not usable, or it lies outside the directory of the adapters.
        """
        adapter_directory.check_name(adapter.name)
        resolved = adapter.path.resolve()
        if resolved.parent != self._directory:
            raise AdapterError(f"adapter {adapter.name}: {resolved} is not in {self._directory}; it is never loaded")
        return str(self._path / resolved.name)

    async def _prove(self, replica: Replica, adapter: HeldAdapter, serving: str | None) -> None:
        tries = replica.faults[adapter.name].tries if adapter.name in replica.faults else 0
        rests = replica.rests
        try:
            if self.loads() and not await self._have_loaded(replica, adapter):
                return
            incumbent = serving if serving != adapter.name and serving in replica.marks else None
            attestation = await self._ask_fingerprint(replica, adapter, incumbent)
        except NotThereError as error:
            if replica.rests != rests:
                return
            # What has not come yet says nothing of how a replica answers for others, unless it lacks what all ask for.
            of_replica = tries >= LATE_TRIES and adapter.name == serving
            replica.failed(adapter.name, Attestation(False, str(error)), of_replica=of_replica)
            log.warning("replica %s does not have %s yet: %s", replica.name, adapter.name, error)
            return
        except (AdapterError, DataError) as error:  # it cannot hold the adapter, or refuses the fingerprint's prompts
            attestation = Attestation(False, str(error))
            replica.models -= {adapter.name}
        if replica.rests != rests:
            return  # it has slept meanwhile, and holds no adapter any more
        if attestation.passed:
            replica.passed(adapter.name, attestation)
            log.info("replica %s is attested for %s", replica.name, adapter.name)
        else:
            replica.failed(adapter.name, attestation)
            log.error("replica %s is not attested for %s: %s", replica.name, adapter.name, attestation.reason)

    async def _have_loaded(self, replica: Replica, adapter: HeldAdapter) -> bool:
        """Load it unless it is loaded; afresh when it failed before. False: no room."""
        path = self.served_path(adapter)
        if adapter.name in replica.models and adapter.name in replica.faults:
            await self._client.unload(replica.address, adapter.name)
            replica.models -= {adapter.name}
        if adapter.name in replica.models:
            return True
        ours = sorted(name for name in replica.adapters if self.owns(name))
        if len(ours) >= self._max_adapters:
            reason = f"no room: generation.max_adapters is {self._max_adapters}, and it holds {', '.join(ours)}"
            replica.failed(adapter.name, Attestation(False, reason), of_replica=False)
            return False
        await self._client.load(replica.address, adapter.name, path)
        replica.models |= {adapter.name}
        return True

    async def _ask_fingerprint(self, replica: Replica, adapter: HeldAdapter, incumbent: str | None) -> Attestation:
        refusals: list[str] = []

        async def ask(name: str | None) -> dict[int, Completion]:
            async def one(place: int, request: GenerationRequest) -> tuple[int, list[Completion]]:
                try:
                    return place, await self._client.complete(replica.address, request, self._longest_s)
                except DataError as refused:
                    log.warning("adapter %s: fingerprint prompt %d is left out: %s", adapter.name, place, refused)
                    refusals.append(str(refused))
                    return place, []

            requests = [entry.request(name) for entry in adapter.fingerprint]
            answers = await asyncio.gather(*(one(place, request) for place, request in enumerate(requests)))
            return {place: samples[0] for place, samples in answers if samples}

        # vLLM's CPU build answers wrongly under the base model's name while adapters' requests share its batch: it is
        # asked alone, on one replica at a time, so that the others go on serving.
        async with self._one_at_a_time, replica.alone():
            base = await ask(None)
        candidate = await ask(adapter.name)
        other = None if incumbent is None else await ask(incumbent)
        expected, answers = answered_by_all(adapter.fingerprint, candidate, base, other)
        if refusals and not expected:
            return none_answered(refusals[0])
        return attest(expected, answers[0] or [], answers[1] or [], answers[2], self._dtype)

    async def _unload_unwanted(self, replica: Replica, wanted: frozenset[str]) -> None:
        """Only this workload's versions, and only when no request of this process runs on them."""
        for name in sorted(replica.adapters - wanted):
            if self.owns(name) and not replica.running[name]:
                replica.forget(name)  # before the server is told: no request may find it in between
                await self._client.unload(replica.address, name)
                replica.models -= {name}
                log.info("unloaded adapter %s from replica %s", name, replica.name)
