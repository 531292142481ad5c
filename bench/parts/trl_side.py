"""TRL's SFTTrainer as a measured child process; runs in an environment of its own and imports nothing of the project.

Reads what to train as a JSON file (the argument), then one run a line from stdin; answers one JSON line a run: when
each optimiser step ended (seconds) and its loss. Set is what the curve depends on (rates, schedule, rank, batch, model
dtype); everything else is as TRL has it: mixed precision, gradient checkpointing, collation, logging.
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
os.dup2(2, 1)  # whatever the libraries print goes to the log
STARTED = time.perf_counter()

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


class Measured(SFTTrainer):  # type: ignore[misc]
    """Keeps the loss of every step; with `order`, takes the rows in that order."""

    losses: list[torch.Tensor]
    order: bool

    def training_step(self, *arguments: Any, **more: Any) -> torch.Tensor:
        loss = super().training_step(*arguments, **more)
        self.losses.append(loss.detach().clone())
        return loss

    def _get_train_sampler(self, *arguments: Any, **more: Any) -> Any:
        if self.order:
            return torch.utils.data.SequentialSampler(self.train_dataset)
        return super()._get_train_sampler(*arguments, **more)


def train(run: dict[str, Any], output: str) -> dict[str, Any]:
    started = time.perf_counter()
    rows, order = SPEC["rows"], run.get("order")
    chosen = rows if order is None else [rows[i] for i in order]
    defaults = {"bf16": False} if SPEC["dtype"] == "float32" else {}
    if run["checkpointing"] is not None:
        defaults["gradient_checkpointing"] = run["checkpointing"]
    settings = SFTConfig(
        output_dir=output,
        max_steps=run["steps"],
        per_device_train_batch_size=SPEC["batch_size"],
        learning_rate=SPEC["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=SPEC["warmup_ratio"],
        weight_decay=0.0,
        seed=run["seed"],
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        model_init_kwargs={"dtype": SPEC["dtype"]},
        **defaults,
    )
    clock = Clock()
    trainer = Measured(
        model=SPEC["model"],
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": row["prompt"], "completion": row["completion"]} for row in chosen]),
        peft_config=LoraConfig(
            r=SPEC["rank"], lora_alpha=SPEC["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[clock],
    )
    trainer.losses, trainer.order = [], order is not None
    setup_s = time.perf_counter() - started
    trainer.train()
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    return {
        "setup_s": setup_s,
        "ends": clock.ends,
        "losses": [loss.item() for loss in trainer.losses],
        "tokens": sum(lengths) / len(lengths),
    }


def main() -> None:
    torch.set_num_threads(SPEC["threads"])
    with tempfile.TemporaryDirectory() as output:
        print(json.dumps({"import_s": time.perf_counter() - STARTED}), file=ANSWERS, flush=True)
        for line in sys.stdin:
            print(json.dumps(train(json.loads(line), output)), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
