"""The workload of the story: the demo's support desk, written as k8s/README.md tells a user to write theirs.

A copy of k8s/ gets the task and, on a machine with fewer cores than overlays/try is made for, smaller requests of
processor time: where the cores are full, vLLM goes before what trains and what embeds, and these before the rest.
Nothing else is changed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from semievold.demo import settings, support_desk
from tests.cluster import ROOT

CORES = 4
"""What overlays/try is made for."""
EXAMPLES_PER_INTENT, QUERIES = 10, 32
SEED = 0


def write_workload(folder: Path) -> None:
    """Write `k8s/`, `examples.jsonl` and `queries.jsonl` into `folder`."""
    shutil.copytree(ROOT / "k8s", folder / "k8s")
    config = folder / "k8s" / "base" / "semievol.yaml"
    config.write_text(yaml.safe_dump(_merged(yaml.safe_load(config.read_text("utf-8")), _own()), sort_keys=False))
    if (os.cpu_count() or 1) < CORES:
        _lower_requests(folder / "k8s")
    data = support_desk.generate(SEED, labelled_per_intent=EXAMPLES_PER_INTENT, unlabeled=QUERIES, test=0)
    _write(folder / "examples.jsonl", [{"question": e.query.question, "answer": e.answer} for e in data.examples])
    _write(folder / "queries.jsonl", [{"question": query.question} for query in data.queries])


def _own() -> dict[str, Any]:
    """What the demo found for its data on two cores; fewer answers to a query, since vLLM on CPUs is no fast engine."""
    return {
        "task": {
            "labels": list(support_desk.labels()),
            "instruction": settings.INSTRUCTION,
            "max_answer_tokens": 8,
        },
        "labels": {"holdout_share": 0.55},
        "labelling": {
            "configurations": [
                {"name": "greedy", "temperature": 0.0, "neighbours": 2},
                {"name": "sampled", "temperature": 1.0, "samples": 2, "neighbours": 2},
            ],
            "justify": False,
        },
        "selection": {"theta": 0.6},
        "training": {"learning_rate": 1e-3, "epochs": 2, "warm_learning_rate": 2e-3, "warm_epochs": 1},
        "trigger": {"new_pseudo_labels": QUERIES},
    }


def _merged(shipped: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Sections of `own` over those that are shipped, setting by setting."""
    return shipped | {name: {**shipped.get(name, {}), **section} for name, section in own.items()}


def _lower_requests(folder: Path) -> None:
    """Where the cores are full they are shared by these, so that a training does not starve the engines."""
    kustomization = folder / "overlays" / "try" / "kustomization.yaml"
    text = kustomization.read_text("utf-8")
    assert list(yaml.safe_load(text))[-1] == "patches", f"{kustomization} does not end with its patches any more"
    targets = {"kind: Deployment": "20m", "kind: StatefulSet": "20m", "kind: StatefulSet, name: vllm": "200m",
               "kind: Deployment, name: embedding": "100m"}  # fmt: skip
    for target, cpu in targets.items():
        lowered = f"{{op: replace, path: /spec/template/spec/containers/0/resources/requests/cpu, value: {cpu}}}"
        text = f"{text.rstrip()}\n  - target: {{{target}}}\n    patch: |\n      - {lowered}\n"
    kustomization.write_text(text, "utf-8")
    job = folder / "components" / "training-jobs" / "job.yaml"
    asked = job.read_text("utf-8")
    assert asked.count("cpu: 500m") == 1, f"{job} asks for another share of a processor now"
    job.write_text(asked.replace("cpu: 500m", "cpu: 100m"), "utf-8")


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
