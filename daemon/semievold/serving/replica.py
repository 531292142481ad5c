"""One vLLM replica as this process sees it: whether it answers, what it has loaded, what it has proved.

Owns the marks. Invariant: a mark says that this process heard the replica give the right fingerprint under that name
since it last stopped answering; without one it gets no request for that adapter.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from semievol.backoff import Backoff
from semievol.http.server_address import ServerAddress
from semievold.serving.attestation import Attestation

RETURN_S = 60.0
"""So long after a rest a replica that has not said anything wrong is on its way back, and no failure."""
_RETRY = Backoff(1.0, 15.0)
_LONGEST_DRAIN_S = 10.0
RESERVED_S = 60.0
"""So long requests wait for one that is asked alone, on a slow server; then it counts as one that does not answer."""
_DRAIN_LOOK_S = 0.005


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a replica cannot be trusted with an adapter, and when (monotonic seconds) it is tried again."""

    attestation: Attestation
    tries: int
    retry_at: float
    of_replica: bool = True
    """False: nothing is wrong with it, it has no room."""


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica at one moment. `reason` says why it gets no requests; empty when it does."""

    name: str
    state: str
    """up, leaving, warming, quarantined, asleep or down."""
    reason: str
    running: int
    adapters: Mapping[str, Attestation]
    """The last attestation of each adapter that it was asked for."""


class Replica:
    """State only; who asks and loads is the replica set."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self.answers = False
        """Its last health check succeeded, and no request failed since."""
        self.silence = "not asked yet"
        """Why not, when it does not."""
        self.warm = False
        """It has answered a request since it started: the first one waits for compilation."""
        self.models: frozenset[str] = frozenset()
        self.marks: dict[str, Attestation] = {}
        self.faults: dict[str, Fault] = {}
        self.to_prove_again: set[str] = set()
        self.blamed: str | None = None
        """In quarantine, for this reason: it gets no request at all."""
        self._reserved_at: float | None = None
        """Since when it gets no request, because its base model is asked alone for a moment."""
        self.resting: str | None = None
        """It sleeps, or is about to, for this reason: it gets no request at all, nor a question of ours."""
        self.rests = 0
        """How often it has rested; what was heard across one says nothing."""
        self.appearances = 0
        """How often it began to answer: at each time it may be another process."""
        self._rested_until: float | None = None
        self.running: Counter[str | None] = Counter()
        self.slow_looks = 0
        """How many in a row got no answer in time."""
        self.looks = 0
        """How often it was looked at."""
        self.left_at: float | None = None
        """When its name ceased to stand for it (monotonic seconds): it is asked what no other can answer."""
        self.wake = asyncio.Event()

    @property
    def name(self) -> str:
        return self.address.name

    @property
    def adapters(self) -> frozenset[str]:
        return self.models - {self.address.base_model}

    @property
    def busy(self) -> int:
        return self.running.total()

    def takes(self, adapter: str | None) -> bool:
        """Whether it gets requests for `adapter` (None: the base model)."""
        return self._reserved_at is None and self.able(adapter)

    def able(self, adapter: str | None) -> bool:
        """The same, but for the moment in which its base model is asked alone; after RESERVED_S that is a hang."""
        if self._reserved_at is not None and time.monotonic() > self._reserved_at + RESERVED_S:
            return False
        return (
            self.answers
            and self.warm
            and self.blamed is None
            and self.resting is None
            and (adapter in self.marks if adapter is not None else self.address.base_model in self.models)
        )

    def is_away(self, adapter: str | None) -> bool:
        """Whether it has nothing for `adapter` because it rests, or has rested just now and is not asked to the end."""
        if self.resting is not None:
            return True
        returns = self._rested_until is not None and time.monotonic() < self._rested_until + RETURN_S
        return returns and self.blamed is None and adapter not in self.faults

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """No request of this process runs on it in the block, unless one takes very long to end."""
        self._reserved_at = time.monotonic()
        deadline = time.monotonic() + _LONGEST_DRAIN_S
        try:
            while self.busy and time.monotonic() < deadline:  # noqa: ASYNC110 - rare, short, and lend stays plain
                await asyncio.sleep(_DRAIN_LOOK_S)
            yield
        finally:
            self._reserved_at = None

    def rest(self, reason: str | None) -> None:
        """Let it rest for this reason; None: it rests no more, and whatever it held or had proved before is gone."""
        if (reason is None) is (self.resting is None):
            self.resting = reason
            return
        self.rests += 1
        self._rested_until = time.monotonic() if reason is None else None
        self.resting, self.warm, self.models = reason, False, frozenset()
        self.marks.clear()
        self.faults.clear()
        self.blamed = None

    def fell_silent(self, reason: str) -> None:
        """It may have restarted, empty or with other weights: nothing that it proved holds any more."""
        self._rested_until = None
        self.answers, self.silence, self.warm = False, reason, False
        self.marks.clear()
        self.faults.clear()
        self.blamed = None

    def was_seen(self, models: frozenset[str]) -> None:
        """It answers, with these names."""
        self.appearances += not self.answers
        self.answers, self.silence, self.models = True, "", models
        for name in [name for name in self.marks if name not in models]:
            del self.marks[name]

    def passed(self, name: str, attestation: Attestation) -> None:
        self.marks[name] = attestation
        self.faults.pop(name, None)
        self.to_prove_again.discard(name)

    def failed(self, name: str, attestation: Attestation, *, of_replica: bool = True) -> None:
        """Remember why, and try again later, ever less often."""
        tries = self.faults[name].tries + 1 if name in self.faults else 1
        self.marks.pop(name, None)
        self.faults[name] = Fault(attestation, tries, time.monotonic() + _RETRY.bound_s(tries), of_replica)
        self.to_prove_again.discard(name)

    def forget(self, name: str) -> None:
        """The version is not wanted any more."""
        self.marks.pop(name, None)
        self.faults.pop(name, None)
        self.to_prove_again.discard(name)

    def needs_proof(self, name: str) -> bool:
        """Whether its fingerprint is to be asked now."""
        if name in self.to_prove_again:
            return True
        fault = self.faults.get(name)
        return name not in self.marks and (fault is None or time.monotonic() >= fault.retry_at)

    def verdict(self, name: str) -> Attestation | None:
        """The last word on `name`; None: it was not asked yet, or is to be asked again."""
        if name in self.to_prove_again:
            return None
        fault = self.faults.get(name)
        return self.marks.get(name) or (None if fault is None else fault.attestation)

    def view(self) -> ReplicaView:
        """What people are shown."""
        if not self.answers:
            state, reason = "down", self.silence
        elif self.resting is not None:
            state, reason = "asleep", self.resting
        elif self.blamed is not None:
            state, reason = "quarantined", self.blamed
        elif not self.warm:
            state, reason = "warming", "it has not answered a request since it started"
        elif self.left_at is not None:
            state, reason = "leaving", "its name stands for it no more"
        else:
            state, reason = "up", ""
        failed = {name: fault.attestation for name, fault in self.faults.items()}
        return ReplicaView(self.name, state, reason, self.busy, {**failed, **self.marks})


def states_of(replicas: Sequence[Replica]) -> str:
    """One line that says how each is, and why it gets no requests."""
    views = (f"{view.name} {view.state}{view.reason and f' ({view.reason})'}" for view in (r.view() for r in replicas))
    return "; ".join(views) or "there are none"
