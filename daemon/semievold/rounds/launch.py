"""Where a round trains: a process of its own here, or elsewhere by another Launcher (rounds.jobs: a Kubernetes Job).

Owns the places of a training; not what training does (semievol.training.lora) nor the child's life
(semievol.training.process).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from semievol import adapter_directory
from semievol.adapter_directory import Manifest
from semievol.errors import AdapterError
from semievol.training.job import JOB_HASH_FILE, snapshot_hash
from semievol.training.lora import RESULT_FILE
from semievol.training.process import is_held, train_in_subprocess

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

    async def trains(self) -> bool:
        """Whether anything still trains, or is about to end, of whatever round, though nobody waits for it here.

        Raises:
            ConfigError: it may not be asked.
            TransientError: it is not known now.
        """
        ...


class SubprocessLauncher:
    """Trains in a child process on this machine, which never outlives the daemon.

    Args:
        inherit: names of environment variables that it gets besides what it needs.
        rounds: where the files of all rounds are, those of other daemons of the workload too. None: nobody else trains.
    """

    def __init__(self, inherit: Sequence[str] = (), rounds: Path | None = None) -> None:
        self._inherit = tuple(inherit)
        self._rounds = rounds

    async def train(self, place: TrainingPlace) -> Trained:
        path = await train_in_subprocess(place.snapshot, place.work, place.adapters, inherit=self._inherit)
        manifest = await asyncio.to_thread(adapter_directory.verify, path)
        return Trained(manifest.name, path, manifest.content_hash, manifest.training)

    async def retire(self, open_round: int | None) -> None:
        """Nothing to do: the child has ended with the call that started it."""

    async def trains(self) -> bool:
        """Of a leader that stands still, say, and has been replaced: its child goes on until it has ended."""
        return await asyncio.to_thread(self._any_is_held)

    def _any_is_held(self) -> bool:
        return self._rounds is not None and any(map(is_held, self._rounds.glob("r*/work")))


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

    async def trains(self) -> bool:
        return await self._launcher.trains()


def published(work: Path, adapters: Path) -> tuple[Path, Manifest]:
    """The adapter that the training in `work` named as its result.

    Raises:
        OSError, ValueError, KeyError, TypeError, AdapterError: it named none, or none that is whole.
    """
    path = adapters / Path(json.loads((work / RESULT_FILE).read_text(encoding="utf-8"))["path"]).name
    return path, adapter_directory.verify(path)


def made_before(place: TrainingPlace) -> tuple[Path, Manifest] | None:
    """What this very snapshot was trained to earlier; None: nothing, or nothing whole. Blocking."""
    try:
        if (place.work / JOB_HASH_FILE).read_text(encoding="ascii").strip() != snapshot_hash(place.snapshot):
            return None
        return published(place.work, place.adapters)
    except (OSError, ValueError, KeyError, TypeError, AdapterError):
        return None
