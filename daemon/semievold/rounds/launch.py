"""Where a round trains: a process of its own here, or elsewhere by another Launcher (rounds.jobs: a Kubernetes Job).

Owns the places of a training; not what training does (semievol.training.lora) nor the child's life
(semievol.training.process).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from semievol import adapter_directory
from semievol.training.process import train_in_subprocess

if TYPE_CHECKING:
    from semievold.serving.storage.object_storage import AdapterStorage


@dataclass(frozen=True, slots=True)
class TrainingPlace:
    """The directories of one training."""

    snapshot: Path
    work: Path
    adapters: Path


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training left behind: a STABLE adapter directory."""

    name: str
    path: Path
    content_hash: str
    summary: Mapping[str, Any]


class Launcher(Protocol):
    """Trains somewhere."""

    async def train(self, place: TrainingPlace) -> Trained:
        """Train, or go on from the last checkpoint. Cancelling ends the wait: what trains elsewhere may go on.

        Raises:
            AdapterError: the training failed; its last words are in the text.
            TransientError: there is no place to train at present.
        """
        ...

    async def retire(self, open_round: int | None) -> None:
        """End what still trains for another round than the open one.

        Raises:
            ConfigError: it may not.
            TransientError: what would end it does not answer.
        """
        ...


class SubprocessLauncher:
    """Trains in a child process on this machine, which never outlives the daemon.

    `inherit`: names of environment variables that it gets besides what it needs.
    """

    def __init__(self, inherit: Sequence[str] = ()) -> None:
        self._inherit = tuple(inherit)

    async def train(self, place: TrainingPlace) -> Trained:
        path = await train_in_subprocess(place.snapshot, place.work, place.adapters, inherit=self._inherit)
        manifest = await asyncio.to_thread(adapter_directory.verify, path)
        return Trained(manifest.name, path, manifest.content_hash, manifest.training)

    async def retire(self, open_round: int | None) -> None:
        """Nothing to do: the child has ended with the call that started it."""


class PublishingLauncher:
    """Another launcher, whose adapters are on object storage too when its trainings end.

    What cannot be published for now is a training to be asked for again: it has ended, and says so at once.
    """

    def __init__(self, launcher: Launcher, storage: AdapterStorage) -> None:
        self._launcher = launcher
        self._storage = storage

    async def train(self, place: TrainingPlace) -> Trained:
        trained = await self._launcher.train(place)
        await asyncio.to_thread(self._storage.publish, trained.path)
        return trained

    async def retire(self, open_round: int | None) -> None:
        await self._launcher.retire(open_round)
