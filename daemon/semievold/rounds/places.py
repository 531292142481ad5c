"""Where the files of rounds and adapters are."""

from __future__ import annotations

import re
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

    def numbers(self) -> list[int]:
        """Of the rounds that have files; oldest first."""
        found = (re.fullmatch(r"r(\d{4,})", path.name) for path in self.rounds.glob("r*"))
        return sorted(int(each[1]) for each in found if each is not None)

    def work(self, number: int) -> Path:
        """Where the training of this round keeps its checkpoints and progress."""
        return self.rounds / f"r{number:04d}" / "work"

    def training(self, round_: Round) -> TrainingPlace:
        directory = self.rounds / round_.name
        return TrainingPlace(directory / "snapshot", directory / "work", self.adapters)
