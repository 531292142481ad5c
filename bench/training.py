"""What a LoRA training costs: training examples per second against TRL's SFTTrainer with its defaults.

`python bench/training.py [--steps 10] [--repeats 3] [--threads 2] [--model-dir DIR] [--data FILE.jsonl] [--plain]`

Same rows, tokens, model, dtype, rank, layers, batch size, steps, rate and schedule, the loss on the completions alone.
The data are the demo's examples, asked closed book, or a JSONL file of {"id", "question", "answer", "options"?}. TRL
runs in an environment of its own (parts/trl_environment.py). What decides the curve is set on both sides alike (TRL
would decay a rate of 2e-5 linearly); the rest is as either has it: TRL recomputes activations (gradient checkpointing),
computes in mixed precision and draws its batches at random, ours are grouped by length. `--plain` also measures TRL
without gradient checkpointing.

Each side is one child process with so many threads and trains anew for every repeat; the two alternate. Timed is from
the end of the first step to the end of the last: no imports, no loading of the model, which stand beside it. Before
that both train on the very same batches: the first loss is the base model's and has to agree, the later ones
differ by their random initial weights alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from parts import trl_environment

from semievol.config.method import ModelConfig, TaskConfig
from semievol.engines.language_model import load_prompts
from semievol.examples.files import read_examples
from semievol.tasks.task import Task
from semievol.training.process import ENVIRONMENT
from semievol.types import Example
from semievold.demo.settings import INSTRUCTION
from semievold.demo.support_desk import generate

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct"
PARTS = Path(__file__).parent / "parts"
CLAIM = 1.5


@dataclass
class Side:
    """A trainer in a child process, and what it measured."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    checkpointing: bool | None = None
    import_s: float = 0.0
    runs: list[dict[str, Any]] = field(default_factory=list)

    def train(self, steps: int, seed: int, order: list[int] | None = None) -> dict[str, Any]:
        asked = {"steps": steps, "seed": seed, "order": order, "checkpointing": self.checkpointing}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}:\n{self.log.read_text()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def start(name: str, python: str, spec: Path, threads: int, more: dict[str, str]) -> Side:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    script, log = str(PARTS / f"{name}_side.py"), spec.with_name(f"{name}.log")
    process = subprocess.Popen(
        [python, script, str(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log.open("w"),
        env=environment | more,
        text=True,
    )
    side = Side(name, process, log)
    side.import_s = side.answer()["import_s"]
    return side


def rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The training rows, as messages for our side and as the text of the same template for TRL's."""
    task, examples = read_data(options.data)
    prompts = load_prompts(ModelConfig(name=str(options.model_dir)))
    found = []
    for example in examples:
        messages = task.prompt(example.query)
        found.append(
            {
                "messages": [{"role": message.role, "content": message.content} for message in messages],
                "prompt": prompts.prompt_text(messages),
                "completion": task.completion(example.answer),
            }
        )
    return found


def read_data(file: Path | None) -> tuple[Task, list[Example]]:
    if file is None:
        return Task(TaskConfig(instruction=INSTRUCTION)), list(generate(0, unlabeled=0, test=0).examples)
    choice = '"options"' in file.open(encoding="utf-8").readline()
    task = Task(TaskConfig(form="multiple_choice" if choice else "classification", instruction=INSTRUCTION))
    return task, read_examples(file, task)


def rate(run: dict[str, Any], batch_size: int) -> float:
    """Examples per second from the end of the first step to the end of the last."""
    ends: list[float] = run["ends"]
    return batch_size * (len(ends) - 1) / (ends[-1] - ends[0])


def report(ours: Side, theirs: list[Side], batch_size: int) -> None:
    print(f"{'':<28} {'examples/s':>10} {'min':>7} {'max':>7} {'import s':>9} {'set-up s':>9} {'tokens/row':>11}")
    for side in (ours, *theirs):
        rates = [rate(run, batch_size) for run in side.runs]
        setup = statistics.median(run["setup_s"] for run in side.runs)
        print(
            f"{side.name:<28} {statistics.median(rates):>10.2f} {min(rates):>7.2f} {max(rates):>7.2f} "
            f"{side.import_s:>9.1f} {setup:>9.1f} {side.runs[0]['tokens']:>11.1f}"
        )
    for side in theirs:
        ratio = statistics.median(
            rate(mine, batch_size) / rate(other, batch_size) for mine, other in zip(ours.runs, side.runs, strict=True)
        )
        claim = f" (claim: at least {CLAIM})" if side is theirs[0] else ""
        print(f"semievol / {side.name}: x{ratio:.2f}{claim}")
    mine, other = last_losses(ours), last_losses(theirs[0])
    difference = statistics.mean(mine) - statistics.mean(other)
    noise = (statistics.variance(mine) / len(mine) + statistics.variance(other) / len(other)) ** 0.5
    print(
        f"loss of the last third of the steps: semievol {statistics.mean(mine):.3f}, trl {statistics.mean(other):.3f}; "
        f"difference {difference:+.3f}, its standard error {noise:.3f}"
    )


def last_losses(side: Side) -> list[float]:
    return [loss for run in side.runs for loss in run["losses"][-max(2, len(run["losses"]) // 3) :]]


def agree(ours: Side, theirs: Side, steps: int) -> None:
    """The same batches in the same order: only the random initial weights differ."""
    mine = ours.train(steps, seed=0)
    other = theirs.train(steps, seed=0, order=mine["order"])
    pairs = list(zip(mine["losses"], other["losses"], strict=True))
    first = pairs[0][0] / pairs[0][1] - 1
    apart = [a - b for a, b in pairs]
    print(
        f"same batches, {steps} steps: first loss {pairs[0][0]:.4f} and {pairs[0][1]:.4f} ({first:+.2%}), last "
        f"{pairs[-1][0]:.4f} and {pairs[-1][1]:.4f}; a step differs by at most {max(map(abs, apart)):.4f}, on average "
        f"by {statistics.mean(apart):+.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps of a run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    parser.add_argument("--batch", type=int, default=8, help="rows per step")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of either side")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--model-dir", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, help="labelled examples (JSONL); the demo's when left out")
    parser.add_argument("--plain", action="store_true", help="also TRL without gradient checkpointing")
    options = parser.parse_args()
    if not (options.model_dir / "config.json").is_file():
        raise SystemExit(f"{options.model_dir} holds no model: run `make model`, or set --model-dir")
    trl_environment.install()
    with tempfile.TemporaryDirectory() as name:
        spec = Path(name) / "spec.json"
        settings = {
            "rows": rows(options),
            "model": str(options.model_dir.resolve()),
            "dtype": options.dtype,
            "rank": options.rank,
            "alpha": 2 * options.rank,
            "batch_size": options.batch,
            "learning_rate": options.learning_rate,
            "warmup_ratio": 0.1,
            "threads": options.threads,
        }
        spec.write_text(json.dumps(settings), encoding="utf-8")
        ours = start("semievol", sys.executable, spec, options.threads, {"OMP_WAIT_POLICY": "PASSIVE", **ENVIRONMENT})
        trl = start("trl", str(trl_environment.PYTHON), spec, options.threads, {})
        agree(ours, trl, options.steps)
        theirs = [trl]
        if options.plain:
            theirs.append(replace(trl, name="trl, no checkpointing", checkpointing=False, runs=[]))
        for repeat in range(options.repeats):
            sides = [ours, *theirs]
            for side in sides if repeat % 2 == 0 else sides[::-1]:
                side.runs.append(side.train(options.steps, seed=repeat + 1))
        for side in (ours, trl):
            assert side.process.stdin is not None
            side.process.stdin.close()
            side.process.wait()
    report(ours, theirs, options.batch)


if __name__ == "__main__":
    main()
