"""Keeps a local directory as object storage has it: what `semievold sync-adapters` does beside an engine.

Owns which versions are fetched, tried again and removed. Owns neither the storage nor the timing of looks.
Invariants: a version is under its name whole or not at all; what the engine holds is never removed, nor anything while
the engine does not say what it holds.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from semievol import adapter_directory
from semievol.adapter_directory import MARKER_FILE
from semievol.errors import AdapterError
from semievold.serving.storage.refusals import Refusals

if TYPE_CHECKING:
    from semievold.serving.storage.object_storage import AdapterStorage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found and did: names of versions."""

    here: frozenset[str]
    fetched: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class AdapterSync:
    """One directory that follows one storage.

    Args:
        loaded: the names that the engine answers to; None: it does not say.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        storage: AdapterStorage,
        directory: Path,
        loaded: Callable[[], Awaitable[frozenset[str] | None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._directory = directory
        self._loaded = loaded
        self._sound: set[str] = set()
        self._refused = Refusals(clock)

    async def look(self) -> Look:
        """Fetch what is missing, remove what is gone.

        Raises:
            TransientError: the storage does not answer; what was fetched until then stays.
        """
        published = await asyncio.to_thread(self._storage.names)
        fetched, refused = [], []
        for name in sorted(published):
            if await asyncio.to_thread(self._is_sound, name):
                continue
            if self._refused.waits(name) is not None:
                continue
            try:
                await self._clear(name)
                await asyncio.to_thread(self._storage.fetch, name, self._directory)
            except AdapterError as error:
                self._refused.add(name, str(error))
                log.error("%s", error)
                refused.append(name)
                continue
            self._refused.forget(name)
            self._sound.add(name)
            log.info("adapter %s is here", name)
            fetched.append(name)
        self._refused.keep(published)
        removed = await self._remove_all_but(published)
        return Look(frozenset(self._sound), tuple(fetched), tuple(refused), removed)

    def _is_sound(self, name: str) -> bool:
        """Whether it lies here whole; bytes that an earlier process left are looked through once."""
        path = self._directory / name
        if not (path / MARKER_FILE).is_file():
            self._sound.discard(name)
        elif name not in self._sound:
            try:
                adapter_directory.verify(path)
            except AdapterError:
                return False
            self._sound.add(name)
        return name in self._sound

    async def _clear(self, name: str) -> None:
        """Make room for a version whose bytes here are damaged.

        Raises:
            AdapterError: the engine may read them.
        """
        path = self._directory / name
        if not (path / MARKER_FILE).exists():
            return
        held = await self._loaded()
        if held is None or name in held:
            raise AdapterError(f"{path}: is damaged, and stays, because the engine may hold it; restart the engine")
        await asyncio.to_thread(shutil.rmtree, path)

    async def _remove_all_but(self, published: frozenset[str]) -> tuple[str, ...]:
        """Versions that lie here and are published no more, once the engine has forgotten them."""
        gone = {path.parent.name for path in self._directory.glob(f"*/{MARKER_FILE}")} - published
        gone = {name for name in gone if adapter_directory.is_name(name)}
        held = await self._loaded() if gone else None
        if held is None:
            return ()
        removed = sorted(gone - held)
        for name in removed:
            self._sound.discard(name)
            await asyncio.to_thread(shutil.rmtree, self._directory / name, True)
            log.info("removed adapter %s, which is published no more", name)
        return tuple(removed)
