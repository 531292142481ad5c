"""Where the files of rounds and adapters are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from semievold.rounds.launch import TrainingPlace
from semievold.store.rounds import Round


@dataclass(frozen=True, slots=True)
class RoundPlace:
    """Where the files of the rounds and adapters are."""

    rounds: Path
    adapters: Path

    @classmethod
    def under(cls, artifacts: Path) -> RoundPlace:
        """Those of a daemon whose `artifacts.directory` this is."""
        directory = artifacts.resolve()
        return cls(directory / "rounds", directory / "adapters")

    def work(self, number: int) -> Path:
        """Where the training of this round keeps its checkpoints and progress."""
        return self.rounds / f"r{number:04d}" / "work"

    def training(self, round_: Round) -> TrainingPlace:
        directory = self.rounds / round_.name
        return TrainingPlace(directory / "snapshot", directory / "work", self.adapters)
