"""A training that takes seconds: nine short rows, a model of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semievol.config.method import ModelConfig, TrainingConfig
from semievol.training.job import TrainingJob
from semievol.types import Message, TrainingRow

# 9 rows of different lengths in batches of 4: the last step of a pass has one row.
ROWS = [TrainingRow(f"q{i}", (Message("user", "why " * (i + 1)),), "abc"[: i % 3 + 1], "example") for i in range(9)]


def tiny_job(model: Path, epochs: float = 1, **training: Any) -> TrainingJob:
    """The job of ROWS. `training`: settings of their own."""
    settings = {"rank": 4, "alpha": 8, "batch_size": 4, "checkpoint_steps": 3, "threads": 1} | training
    return TrainingJob(
        workload="tiny",
        round_number=1,
        kind="warm",
        seed=11,
        model=ModelConfig(name=str(model), dtype="float32", device="cpu"),
        training=TrainingConfig.model_validate(settings),
        learning_rate=1e-2,
        epochs=epochs,
        name_prefix="tiny-r0001",
        fingerprint_prompts=(ROWS[0].messages,),
    )
