"""How far a training has come: what the training process writes, and whoever waits for it reads.

Owns `progress.json` and `losses.jsonl` of a working directory. Invariant: a reader sees a whole record or none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from semievol.durable_files import write_whole

PROGRESS_FILE = "progress.json"
LOSSES_FILE = "losses.jsonl"
WAITING = "waiting"
"""A state that whoever starts the training writes while there is no place for it; `reason` says what is waited for."""


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a training stands. `loss` is the last step's, `tokens_per_s` counts prompt and completion tokens."""

    state: Literal["starting", "training", "fingerprinting", "publishing", "done", "failed"]
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    tokens_per_s: float | None = None
    elapsed_s: float = 0.0


def read_progress(work: Path) -> dict[str, Any] | None:
    """The record of `progress.json` (the fields of TrainingProgress); None before the first one."""
    try:
        record = json.loads((work / PROGRESS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


class ProgressFile:
    """Keeps `progress.json` current for readers in other processes: replaced whole, at most five times a second.

    Every step's loss is added to `losses.jsonl` beside it; steps that a resumed training does again stand there twice.
    """

    def __init__(self, path: Path, listener: Callable[[TrainingProgress], None] | None) -> None:
        self._path = path
        self._listener = listener
        self._started = time.monotonic()
        self._written = -1.0
        self._state = ""

    def report(self, progress: TrainingProgress) -> None:
        now = time.monotonic() - self._started
        record = asdict(progress) | {"elapsed_s": round(now, 3)}
        if progress.state != self._state or progress.step >= progress.total_steps or now - self._written >= 0.2:
            write_whole(self._path, json.dumps(record) + "\n")
            self._written, self._state = now, progress.state
        if progress.state == "training" and progress.loss is not None:
            with self._path.with_name(LOSSES_FILE).open("a", encoding="utf-8") as losses:
                losses.write(json.dumps({"step": progress.step, "loss": progress.loss}) + "\n")
        if self._listener is not None:
            self._listener(TrainingProgress(**record))
