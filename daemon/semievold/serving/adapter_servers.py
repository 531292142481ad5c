"""What holds loaded adapters and proves them: the engine in this process, or a set of vLLM replicas.

Owns the protocol between the fleet, which knows which versions should be loaded, and whoever loads them; and its
implementation for the engine in this process, which is one replica: itself.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from semievol.errors import AdapterError
from semievol.protocols import Generator, completions
from semievol.types import Completion, Refused, Reply
from semievold.serving.attestation import (
    FingerprintEntry,
    Proof,
    answered_by_all,
    attest,
    none_answered,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldAdapter:
    """A version that is to be loaded: a verified directory and what the trainer recorded."""

    name: str
    path: Path
    fingerprint: tuple[FingerprintEntry, ...]


class AdapterServers(Protocol):
    """Loads versions, proves them, forgets them."""

    @property
    def defect(self) -> str | None:
        """Why the serving version cannot be answered with; None when it can."""
        ...

    def protect(self, names: frozenset[str]) -> None:
        """Never unload these, whether or not they can be loaded here: the alias names them."""
        ...

    async def keep(
        self, serving: HeldAdapter | None, previous: HeldAdapter | None, canary: HeldAdapter | None = None
    ) -> None:
        """Have these loaded from now on; they stay so until `unload`. Whether what serves cannot be is told by
        `defect`; where the version on trial cannot, requests that it does not answer say so.
        """
        ...

    async def load(self, adapter: HeldAdapter) -> None:
        """Have this one loaded too, and proved where that is asked for.

        Raises:
            AdapterError: it cannot be; the text names the replica and the cause.
            TransientError: nobody answers now.
        """
        ...

    async def prove(self, adapter: HeldAdapter) -> Proof:
        """Ask the fingerprint anew of every replica, beside the base model and the serving version.

        Raises:
            TransientError: nobody answers now.
        """
        ...

    async def unload(self, name: str) -> None:
        """Forget `name`; the caller has drained its requests."""
        ...

    async def loaded(self) -> frozenset[str]:
        """The versions that anybody holds."""
        ...


class LocalServers:
    """The engine of this process. It loads on demand and is trusted with what it loaded itself until it is asked."""

    NAME = "local"

    def __init__(self, generator: Generator, dtype: str) -> None:
        self._generator = generator
        self._dtype = dtype
        self._serving: str | None = None
        self._defect: str | None = None

    @property
    def defect(self) -> str | None:
        return self._defect

    def protect(self, names: frozenset[str]) -> None:
        """Nothing is unloaded here but by `unload`, and the fleet does not ask for it."""

    async def keep(
        self, serving: HeldAdapter | None, previous: HeldAdapter | None, canary: HeldAdapter | None = None
    ) -> None:
        self._serving = None if serving is None else serving.name
        self._defect = None
        for adapter in (serving, previous, canary):
            if adapter is None:
                continue
            try:
                await self.load(adapter)
            except AdapterError as error:
                log.error("adapter %s cannot be loaded: %s", adapter.name, error)
                if adapter is serving:
                    self._defect = str(error)

    async def load(self, adapter: HeldAdapter) -> None:
        await self._generator.load_adapter(adapter.name, adapter.path)

    async def prove(self, adapter: HeldAdapter) -> Proof:
        refusals: list[str] = []

        async def ask(name: str | None) -> dict[int, Completion]:
            replies: dict[int, Reply] = {}
            await self._generator.answer([entry.request(name) for entry in adapter.fingerprint], replies.__setitem__)
            for place, reply in replies.items():
                if isinstance(reply, Refused):
                    log.warning("adapter %s: fingerprint prompt %d is left out: %s", adapter.name, place, reply.reason)
                    refusals.append(reply.reason)
            return {p: completions(each)[0] for p, each in replies.items() if not isinstance(each, Refused)}

        candidate, base = await ask(adapter.name), await ask(None)
        incumbent = await ask(self._serving) if self._serving not in (None, adapter.name) else None
        expected, answers = answered_by_all(adapter.fingerprint, candidate, base, incumbent)
        if refusals and not expected:
            attestation = none_answered(refusals[0])
        else:
            attestation = attest(expected, answers[0] or [], answers[1] or [], answers[2], self._dtype)
        return Proof(attestation.passed, attestation.reason, {self.NAME: attestation})

    async def unload(self, name: str) -> None:
        await self._generator.unload_adapter(name)

    async def loaded(self) -> frozenset[str]:
        return await self._generator.loaded_adapters()
