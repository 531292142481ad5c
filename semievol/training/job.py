"""One training, written down: everything that the trainer reads, in one directory.

Owns the snapshot's files: `job.json` (TrainingJob) and `rows.jsonl` (one TrainingRow a line). Imports no torch, so that
whoever plans a training stays light; `semievol.training.lora` turns a snapshot into an adapter directory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from semievol.config.method import ModelConfig, TrainingConfig
from semievol.config.training import AUTO
from semievol.durable_files import write_durably
from semievol.errors import DataError
from semievol.types import Message, TrainingRow

JOB_FILE = "job.json"
ROWS_FILE = "rows.jsonl"
JOB_HASH_FILE = "job.sha256"
"""In a trainer's working directory: the hash of the snapshot whose checkpoints lie there."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Everything that decides what is trained; with the rows beside it, it is the whole input.

    `learning_rate` and `epochs` are those of this round's kind; nothing in `training` is left to a rule any more (see
    training.fitting). Of kind `adapt` the rows are read as text. `parent` is the directory of the adapter whose weights
    are the start; None starts afresh. The adapter's name is `name_prefix` and its hash.
    """

    workload: str
    round_number: int
    kind: Literal["warm", "evolve", "adapt"]
    seed: int
    model: ModelConfig
    training: TrainingConfig
    learning_rate: float
    epochs: float
    name_prefix: str
    parent: Path | None = None
    fingerprint_prompts: tuple[tuple[Message, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in AUTO:
            if getattr(self.training, name) == "auto":
                raise ValueError(f"training.{name}: a job states it; auto is for whoever plans the job")

    @property
    def batch_size(self) -> int:
        """Rows per optimiser step."""
        return int(self.training.batch_size)

    @property
    def rank(self) -> int:
        """Of the LoRA matrices."""
        return int(self.training.rank)

    @property
    def alpha(self) -> int:
        """The LoRA scale is this over the rank."""
        return int(self.training.alpha)

    def numbers(self) -> dict[str, float]:
        """What it trains with, as rounds record it."""
        own: dict[str, float] = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        return own | {"batch_size": self.batch_size, "rank": self.rank, "alpha": self.alpha}

    def to_json(self) -> str:
        record = {name: getattr(self, name) for name in ("workload", "round_number", "kind", "seed", "name_prefix")}
        record |= {"learning_rate": self.learning_rate, "epochs": self.epochs}
        record |= {"model": self.model.model_dump(mode="json"), "training": self.training.model_dump(mode="json")}
        record["parent"] = None if self.parent is None else str(self.parent)
        record["fingerprint_prompts"] = [[asdict(message) for message in prompt] for prompt in self.fingerprint_prompts]
        return json.dumps(record, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainingJob:
        """Raises ValueError, TypeError or KeyError when the text is not a job."""
        record = json.loads(text)
        parent = record.pop("parent")
        prompts = record.pop("fingerprint_prompts")
        return cls(
            model=ModelConfig.model_validate(record.pop("model")),
            training=TrainingConfig.model_validate(record.pop("training")),
            parent=None if parent is None else Path(parent),
            fingerprint_prompts=tuple(tuple(Message(**message) for message in prompt) for prompt in prompts),
            **record,
        )


def write_snapshot(snapshot_dir: Path, job: TrainingJob, rows: Sequence[TrainingRow]) -> None:
    """Write `rows.jsonl`, then `job.json`: a snapshot with a job is complete."""
    snapshot_dir.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows]
    write_durably(snapshot_dir / ROWS_FILE, "".join(lines))
    write_durably(snapshot_dir / JOB_FILE, job.to_json())


def snapshot_hash(snapshot_dir: Path) -> str:
    """SHA-256 over the job and its rows: equal snapshots train to the same adapter."""
    digest = hashlib.sha256()
    for name in (JOB_FILE, ROWS_FILE):
        digest.update((snapshot_dir / name).read_bytes())
    return digest.hexdigest()


def read_snapshot(snapshot_dir: Path) -> tuple[TrainingJob, list[TrainingRow]]:
    """Read a job and its rows.

    Raises:
        DataError: names the file, and the line of a bad row.
    """
    path = snapshot_dir / JOB_FILE
    try:
        job = TrainingJob.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not a training job ({error})") from error
    path = snapshot_dir / ROWS_FILE
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            record["messages"] = tuple(Message(**message) for message in record["messages"])
            rows.append(TrainingRow(**record))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}:{number}: not a training row ({error})") from error
    return job, rows
