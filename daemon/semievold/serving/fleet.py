"""The adapters that should be loaded: from registry rows to held versions, released and deleted when nobody needs them.

Owns which versions are wanted and the clean-up of directories; who loads them is behind AdapterServers. Invariant: the
serving and the previous version are loaded (instant rollback), and one on trial; a directory is deleted only after its
version was unloaded.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from semievol import adapter_directory
from semievol.adapter_directory import MARKER_FILE
from semievol.errors import AdapterError, TransientError
from semievold.errors import DamagedAdapter
from semievold.serving.adapter_servers import AdapterServers, HeldAdapter
from semievold.serving.alias import Alias
from semievold.serving.attestation import FingerprintEntry, Proof
from semievold.serving.storage.refusals import Refusals
from semievold.store.adapters import DELETED, IDLE, AdapterVersion, deleted_text
from semievold.store.stores import Stores

if TYPE_CHECKING:
    from semievold.serving.storage.object_storage import AdapterStorage

log = logging.getLogger(__name__)

AT_ONCE = 20
"""So many versions are deleted at the end of a round: each takes its moment, and the next round's end goes on."""


class AdapterFleet:
    """The versions that the engine of this process, or its replicas, answer with.

    Args:
        directory: where the versions' directories are; what the registry says of their place may be out of date.
        storage: where they are published too; what is missing in `directory` is fetched from there. None: nowhere.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        stores: Stores,
        servers: AdapterServers,
        alias: Alias,
        directory: Path,
        storage: AdapterStorage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stores = stores
        self._refused = Refusals(clock)
        self._directory = directory
        self._storage = storage
        self._servers = servers
        self._alias = alias
        self._defect: str | None = None
        self._reconciled: int | None = None  # the alias's generation that was last brought to the servers
        self._candidate: str | None = None
        self._spared: list[str] = []

    @property
    def defect(self) -> str | None:
        """Why the serving version cannot be answered with; None when it can."""
        return self._defect or self._servers.defect

    def propose(self, name: str | None) -> None:
        """What the open round proposes; None: nothing. Nobody unloads it, whatever is asked for beside the round."""
        self._candidate = name
        self._protect()

    @contextmanager
    def sparing(self, name: str) -> Iterator[None]:
        """Nobody unloads or deletes this version meanwhile: an operator is about to have it serve, while a round ends
        beside.
        """
        self._spared.append(name)
        self._protect()
        try:
            yield
        finally:
            self._spared.remove(name)
            self._protect()

    def _protect(self) -> None:
        self._servers.protect(self._in_use())

    def _in_use(self) -> frozenset[str]:
        """What nobody unloads now."""
        state = self._alias.state
        names = (state.adapter, state.previous, self._alias.canary, self._candidate, *self._spared)
        return frozenset(name for name in names if name is not None)

    async def version(self, name: str) -> AdapterVersion:
        """The registry's row of `name`.

        Raises:
            AdapterError: there is no such version, or its directory was deleted.
        """
        found = await asyncio.to_thread(self._stores.adapters.get, name)
        if found is None:
            raise AdapterError(f"there is no adapter {name!r}; `semievol adapters list` shows them")
        if found.state == DELETED:
            raise AdapterError(deleted_text(name))
        return found.found_in(self._directory)

    async def load(self, name: str) -> None:
        """Verify the directory against its marker and the registry, then have it loaded.

        Raises:
            AdapterError: the directory is unusable, or a replica cannot serve it; the text names it and the cause.
            TransientError: nobody answers now, or the storage that has it does not.
        """
        await self._servers.load(await self._held(name))

    async def attest(self, name: str) -> Proof:
        """Ask the fingerprint of `name` of the engine or of every replica.

        Raises:
            AdapterError: the directory is unusable.
            TransientError: nobody answers now.
        """
        return await self._servers.prove(await self._held(name))

    async def follow(self) -> None:
        """Take over the alias as it is stored, and have loaded what it names unless that was done.

        Raises:
            TransientError: the state or the engine does not answer; the next call does what is left.
        """
        self._alias.follow(await asyncio.to_thread(self._stores.alias.get))
        await self.settle()

    async def settle(self) -> None:
        """Reconcile unless that was done since the alias last moved; again as long as something is defect.

        Raises:
            TransientError: as `follow`.
        """
        if self._reconciled != self._alias.state.generation or self._defect is not None:
            await self.reconcile()

    async def reconcile(self) -> None:
        """Have loaded what the alias names. A defect is kept in `defect`, not raised: the daemon lives on, not
        ready, and an operator can roll back or promote another version.
        """
        state = self._alias.state
        # Before anything can fail: whatever becomes of the rest, nobody unloads what the alias names.
        self._protect()
        before, self._defect = self._defect, None
        held: dict[str, HeldAdapter | None] = {}
        for role, name in (("serving", state.adapter), ("previous", state.previous), ("canary", self._alias.canary)):
            held[role] = None
            if name is None:
                continue
            try:
                held[role] = await self._held(name)
            except AdapterError as error:
                if str(error) != before:
                    log.error("the %s adapter cannot be loaded: %s", role, error)
                if role == "serving":
                    self._defect = str(error)
        await self._servers.keep(held["serving"], held["previous"], held["canary"])
        await self._forget_copies()
        self._reconciled = state.generation

    async def publish_what_is_missing(self) -> None:
        """Put on the storage what the alias names and this process has alone: versions from before there was one, or
        from before it was lost. For the leader; what cannot be published now is tried at its next term.
        """
        if self._storage is None:
            return
        state = self._alias.state
        named = [name for name in (state.adapter, state.previous, self._alias.canary) if name is not None]
        held = [name for name in named if (self._directory / name / MARKER_FILE).exists()]
        try:
            there = await asyncio.to_thread(self._storage.names) if held else frozenset()
            for name in held:
                if name not in there:
                    await asyncio.to_thread(self._storage.publish, self._directory / name)
                    log.info("published adapter %s on %s", name, self._storage)
        except (AdapterError, TransientError) as error:
            log.warning("what serves is not on the storage: %s", error)

    async def _held(self, name: str) -> HeldAdapter:
        if self._storage is not None and not (self._directory / name / MARKER_FILE).exists():
            await self.version(name)
            await self._fetch(self._storage, name)
        found = await self.version(name)
        manifest = await asyncio.to_thread(adapter_directory.verify, found.path)
        if manifest.content_hash != found.content_hash:
            raise AdapterError(f"{found.path}: content hash differs from the one registered; the files were replaced")
        try:
            fingerprint = tuple(FingerprintEntry.from_record(record) for record in manifest.fingerprint)
        except (KeyError, TypeError) as error:
            raise AdapterError(f"{found.path}: its manifest's fingerprint is unreadable ({error!r})") from error
        return HeldAdapter(name, found.path, fingerprint)

    async def _fetch(self, storage: AdapterStorage, name: str) -> None:
        """Bring it here; bytes that were refused are asked for again later and later, not at every look."""
        if (why := self._refused.waits(name)) is not None:
            raise DamagedAdapter(why)
        try:
            await asyncio.to_thread(storage.fetch, name, self._directory)
        except DamagedAdapter as error:
            self._refused.add(name, str(error))
            raise
        self._refused.forget(name)

    async def release(self, drain_s: float, keep: frozenset[str] = frozenset()) -> None:
        """Unload every version that is neither in use nor in `keep`, once its requests have ended."""
        for name in await self._servers.loaded() - keep - self._in_use():
            drained = await self._alias.drained(name, drain_s)
            if name in self._in_use():  # by now
                continue
            if drained:
                await self._servers.unload(name)
                log.info("unloaded adapter %s", name)
            else:
                log.warning("adapter %s still has running requests after %.0f s; it stays loaded", name, drain_s)

    async def delete_old(self, keep: int) -> None:
        """Delete the directories of retired versions but the newest `keep`, and of rejected ones likewise; never the
        anchor's. No more than AT_ONCE of them: the next call goes on.

        Each kind by itself: nights of rejected rounds are not to take what somebody may want to go back to.
        """
        needed = {*await self._servers.loaded(), await asyncio.to_thread(self._stores.adapters.anchor)}
        there = await asyncio.to_thread(self._stores.adapters.there)
        old: list[AdapterVersion] = []
        for state in IDLE:
            idle = [version for version in there if version.state == state and version.name not in needed]
            old += idle[: max(0, len(idle) - keep)]
        for version in old[:AT_ONCE]:
            # The row first: a directory that outlives its row's state is harmless, the opposite is a broken rollback.
            if version.name not in self._spared and await asyncio.to_thread(
                self._stores.adapters.mark, version.name, DELETED, IDLE
            ):
                await asyncio.to_thread(shutil.rmtree, version.found_in(self._directory).path, True)
                log.info("deleted the directory of adapter %s", version.name)
        if self._storage is not None:
            await self._unpublish(self._storage)

    async def _unpublish(self, storage: AdapterStorage) -> None:
        """Delete from the storage what is deleted here, also what an earlier call did not get to."""
        deleted = await asyncio.to_thread(self._stores.adapters.deleted)
        try:
            for name in sorted(await asyncio.to_thread(storage.begun_names) & deleted)[:AT_ONCE]:
                await asyncio.to_thread(storage.remove, name)
                log.info("deleted adapter %s from %s", name, storage)
        except TransientError as error:  # the end of the next round tries it again
            log.warning("deleted adapters stay on the storage for now: %s", error)

    async def _forget_copies(self) -> None:
        """Delete this process's copies of versions that were deleted, where it fetches its own."""
        if self._storage is None or not self._directory.is_dir():
            return
        needed = await self._servers.loaded()
        for name in await asyncio.to_thread(self._stores.adapters.deleted) - needed:
            await asyncio.to_thread(shutil.rmtree, self._directory / name, True)
