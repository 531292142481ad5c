"""The adapters that an engine holds: loads what is wanted, unloads what nobody uses, deletes what nobody needs.

Owns the move from registry rows to loaded weights and the clean-up of directories. Invariant: the serving and the
previous version are loaded (instant rollback), and a directory is deleted only after its version was unloaded.
"""

from __future__ import annotations

import asyncio
import logging
import shutil

from daemon.alias import Alias
from daemon.attestation import Attestation, FingerprintEntry, attest
from daemon.store.adapters import AdapterVersion
from daemon.store.stores import Stores
from semievol import adapter_directory
from semievol.errors import AdapterError
from semievol.protocols import Generator
from semievol.types import Completion, GenerationRequest, Message

log = logging.getLogger(__name__)

# bf16 batches of another size round differently; trained and served weights stayed within 0.02 nats per token.
FINGERPRINT_TOLERANCE = 0.1


class AdapterFleet:
    """The versions that one engine answers with."""

    def __init__(self, stores: Stores, generator: Generator, alias: Alias) -> None:
        self._stores = stores
        self._generator = generator
        self._alias = alias
        self.defect: str | None = None

    async def version(self, name: str) -> AdapterVersion:
        """The registry's row of `name`.

        Raises:
            AdapterError: there is no such version, or its directory was deleted.
        """
        found = await asyncio.to_thread(self._stores.adapters.get, name)
        if found is None:
            raise AdapterError(f"there is no adapter {name!r}; `semievol adapters list` shows them")
        if found.state == "deleted":
            raise AdapterError(f"the directory of adapter {name!r} was deleted (artifacts.keep_adapters)")
        return found

    async def load(self, name: str) -> None:
        """Verify the directory against its marker and the registry, then load it."""
        found = await self.version(name)
        manifest = await asyncio.to_thread(adapter_directory.verify, found.path)
        if manifest.content_hash != found.content_hash:
            raise AdapterError(f"{found.path}: content hash differs from the one registered; the files were replaced")
        await self._generator.load_adapter(name, found.path)

    async def attest(self, name: str) -> Attestation:
        """Ask the fingerprint of `name` of the engine, and of the base and the incumbent beside it."""
        found = await self.version(name)
        manifest = await asyncio.to_thread(adapter_directory.verify, found.path)
        entries = [FingerprintEntry(tuple(e["token_ids"]), tuple(e["logprobs"])) for e in manifest.fingerprint]
        prompts = [tuple(Message(**message) for message in e["messages"]) for e in manifest.fingerprint]
        lengths = [len(entry.token_ids) for entry in entries]
        incumbent = self._alias.adapter

        async def ask(adapter: str | None) -> list[Completion]:
            requests = [
                GenerationRequest(prompt, adapter, max_tokens=length)
                for prompt, length in zip(prompts, lengths, strict=True)
            ]
            return [answers[0] for answers in await self._generator.generate(requests)]

        candidate, base = await ask(name), await ask(None)
        other = await ask(incumbent) if incumbent not in (None, name) else None
        return attest(entries, candidate, base, other, FINGERPRINT_TOLERANCE)

    async def reconcile(self) -> None:
        """Load what should be loaded and is not. A defect is kept in `defect`, not raised: the daemon lives on, not
        ready, and an operator can roll back or promote another version.
        """
        state = self._alias.state
        loaded = await self._generator.loaded_adapters()
        self.defect = None
        for role, name in (("serving", state.adapter), ("previous", state.previous)):
            if name is None or name in loaded:
                continue
            try:
                await self.load(name)
                log.info("loaded the %s adapter %s", role, name)
            except AdapterError as error:
                log.error("the %s adapter cannot be loaded: %s", role, error)
                if role == "serving":
                    self.defect = str(error)

    async def release(self, drain_s: float, keep: frozenset[str] = frozenset()) -> None:
        """Unload every version that is neither serving, previous nor in `keep`, once its requests have ended."""
        state = self._alias.state
        for name in await self._generator.loaded_adapters():
            if name in keep or name in (state.adapter, state.previous):
                continue
            if await self._alias.drained(name, drain_s):
                await self._generator.unload_adapter(name)
                log.info("unloaded adapter %s", name)
            else:
                log.warning("adapter %s still has running requests after %.0f s; it stays loaded", name, drain_s)

    async def delete_old(self, keep: int) -> None:
        """Delete the directories of all but the newest `keep` retired and rejected versions."""
        loaded = await self._generator.loaded_adapters()
        versions = await asyncio.to_thread(self._stores.adapters.all)
        idle = [v for v in versions if v.state in ("retired", "rejected") and v.name not in loaded]
        for version in idle[: max(0, len(idle) - keep)]:
            # The row first: a directory that outlives its row's state is harmless, the opposite is a broken rollback.
            await asyncio.to_thread(self._stores.adapters.mark, version.name, "deleted")
            await asyncio.to_thread(shutil.rmtree, version.path, True)
            log.info("deleted the directory of adapter %s", version.name)
