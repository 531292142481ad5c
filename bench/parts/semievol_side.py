"""The project's trainer as a measured child process: the counterpart of trl_side.py, with the same lines in and out.

Runs `lora_trainer.run`, what `python -m semievol.training.lora` does between reading the snapshot and publishing.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SPEC: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
STARTED = time.perf_counter()

from semievol.config.method import ModelConfig, TrainingConfig  # noqa: E402
from semievol.engines.language_model import load_prompts  # noqa: E402
from semievol.training import lora_steps as lora_trainer  # noqa: E402
from semievol.training.batches import batch_order, tokenize  # noqa: E402
from semievol.training.job import TrainingJob  # noqa: E402
from semievol.training.progress import TrainingProgress  # noqa: E402
from semievol.types import Message, TrainingRow  # noqa: E402

ROWS = [
    TrainingRow(str(i), tuple(Message(**message) for message in row["messages"]), row["completion"], "example")
    for i, row in enumerate(SPEC["rows"])
]


def job(run: dict[str, Any]) -> TrainingJob:
    training = TrainingConfig(
        rank=SPEC["rank"],
        alpha=SPEC["alpha"],
        batch_size=SPEC["batch_size"],
        warmup_ratio=SPEC["warmup_ratio"],
        checkpoint_steps=10**6,
        threads=SPEC["threads"],
    )
    return TrainingJob(
        workload="bench",
        round_number=1,
        kind="warm",
        seed=run["seed"],
        model=ModelConfig(name=SPEC["model"], dtype=SPEC["dtype"]),
        training=training,
        learning_rate=SPEC["learning_rate"],
        epochs=run["steps"] * SPEC["batch_size"] / len(ROWS),
        name_prefix="bench",
    )


def train(run: dict[str, Any], output: Path) -> dict[str, Any]:
    started = time.perf_counter()
    of = job(run)
    ends: list[float] = []
    losses: list[float | None] = []

    def note(progress: TrainingProgress) -> None:
        if progress.state == "training":
            ends.append(time.perf_counter())
            losses.append(progress.loss)

    lora_trainer.run(of, ROWS, output / "checkpoints", output / "adapter", note)
    lengths = [row.length for row in tokenize(ROWS, load_prompts(of.model), of.training.max_tokens).rows]
    return {
        "setup_s": ends[0] - started - (ends[-1] - ends[0]) / max(len(ends) - 1, 1),
        "ends": ends,
        "losses": losses,
        "tokens": sum(lengths) / len(lengths),
        "order": batch_order(lengths, SPEC["batch_size"], of.epochs, of.seed),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as output:
        print(json.dumps({"import_s": time.perf_counter() - STARTED}), file=ANSWERS, flush=True)
        for number, line in enumerate(sys.stdin):
            answer = train(json.loads(line), Path(output) / str(number))
            print(json.dumps(answer), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
