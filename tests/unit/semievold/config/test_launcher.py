"""training.launcher: where a round trains is no part of what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from semievol.config.file import load_config
from semievol.config.method import SERVICE_SECTIONS, MethodConfig
from semievol.config.training import TrainingConfig
from semievold.config.daemon import DaemonConfig
from semievold.config.training import TrainingSettings

KUBERNETES = {"kind": "kubernetes", "template": "/etc/job.yaml"}


def test_the_method_of_a_training_is_the_same_wherever_it_takes_place() -> None:
    here = TrainingSettings.model_validate({"rank": 4})
    there = TrainingSettings.model_validate({"rank": 4, "launcher": KUBERNETES})
    shared = TrainingSettings.model_validate({"rank": 4, "share_gpu": "sleep", "share_gpu_with": ["http://h:1"]})
    assert shared.method == here.method == there.method == TrainingConfig(rank=4)
    assert type(there.method) is TrainingConfig


def test_a_run_on_files_passes_over_the_launcher_of_a_shared_file(tmp_path: Path) -> None:
    file = tmp_path / "semievol.yaml"
    file.write_text("workload: w\nmodel: {name: m}\ntraining: {rank: 4, launcher: {nodes: 2, kind: kubernetes}}\n")
    assert load_config(MethodConfig, file, {}, foreign=SERVICE_SECTIONS).training == TrainingConfig(rank=4)


def test_the_launcher_is_set_by_variables(tmp_path: Path) -> None:
    file = tmp_path / "semievol.yaml"
    file.write_text("workload: w\nmodel: {name: m}\n")
    variables = {
        "SEMIEVOL__TRAINING__LAUNCHER__KIND": "kubernetes",
        "SEMIEVOL__TRAINING__LAUNCHER__TEMPLATE": "/etc/job.yaml",
        "SEMIEVOL__TRAINING__LAUNCHER__NODE_SELECTOR": "{pool: gpu}",
    }
    launcher = load_config(DaemonConfig, file, variables).training.launcher
    assert launcher.kind == "kubernetes"
    assert launcher.template == Path("/etc/job.yaml")
    assert launcher.node_selector == {"pool": "gpu"}


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"launcher": {"kind": "kubernetes"}}, "launcher.template: missing"),
        ({"launcher": {"nodes": 2}}, "launcher.nodes: 2 pods are of kind kubernetes"),
        ({"launcher": KUBERNETES, "inherit": ["AWS_*"]}, "write the variables into the env of launcher.template"),
        ({"launcher": {**KUBERNETES, "nodes": 3}}, "batch_size: 8 rows cannot be divided among 3 nodes"),
        ({"launcher": {**KUBERNETES, "queue": "my queue"}}, "queue"),
        ({"launcher": {**KUBERNETES, "service": "Training"}}, "service"),
        ({"launcher": {**KUBERNETES, "tolerations": [{"key": "k", "operator": "Equal"}]}}, "missing with Equal"),
        ({"launcher": {**KUBERNETES, "tolerations": [{"key": "k", "value": "v"}]}}, "set operator Equal"),
        ({"launcher": {**KUBERNETES, "deadline_s": 0}}, "deadline_s"),
        ({"launcher": {**KUBERNETES, "keep_s": 0}}, "set at least 300 (300 s, and 10 * launcher.poll_s)"),
        ({"launcher": {**KUBERNETES, "keep_s": 599, "poll_s": 60}}, "launcher.keep_s: 599 is too short"),
    ],
)
def test_what_cannot_work_is_refused_by_its_key(training: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as found:
        TrainingSettings.model_validate(training)
    assert said in str(found.value)
