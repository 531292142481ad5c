"""Trainings as Jobs, for tests: settings, snapshots, and what Kubernetes would say of Jobs and pods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semievol.training.job import write_snapshot
from semievold.config.training import TrainingSettings
from semievold.rounds.launch import TrainingPlace
from tests.tiny_job import ROWS, tiny_job

TEMPLATE = Path(__file__).parents[1] / "k8s" / "components" / "training-jobs" / "job.yaml"
IMAGE = "semievol-trainer-cpu:0.1.0"

Manifest = dict[str, Any]


def settings(*, processes: int = 1, batch_size: int = 8, **launcher: Any) -> TrainingSettings:
    """Those of the shipped template, with `launcher` on top."""
    chosen = {"kind": "kubernetes", "template": TEMPLATE, **launcher}
    return TrainingSettings.model_validate({"processes": processes, "batch_size": batch_size, "launcher": chosen})


def place_of(root: Path, number: int = 1) -> TrainingPlace:
    return TrainingPlace(
        root / f"rounds/r{number:04d}/snapshot", root / f"rounds/r{number:04d}/work", root / "adapters"
    )


def write(place: TrainingPlace, model: Path = Path("/models/base")) -> TrainingPlace:
    """The snapshot of a tiny training."""
    write_snapshot(place.snapshot, tiny_job(model), ROWS)
    return place


def pod(name: str = "p", phase: str = "Running", **state: Any) -> Manifest:
    """A pod whose trainer is in `state` (running by default, where the phase says so)."""
    if not state:
        state = {"Running": {"running": {}}, "Pending": {}}.get(phase, {"terminated": {"exitCode": 0}})
    containers = [{"name": "trainer", "state": state}] if state else []
    return {
        "metadata": {"name": name, "uid": f"uid-{name}"},
        "spec": {"containers": [{"name": "trainer"}]},
        "status": {"phase": phase, "containerStatuses": containers},
    }
