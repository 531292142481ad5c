"""The gate is the service's and the method's: a run on files reads what it shares, and passes over the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from semievol.config.file import load_config
from semievol.config.method import SERVICE_SECTIONS, GateConfig, MethodConfig
from semievol.errors import ConfigError
from semievold.config.daemon import DaemonConfig
from semievold.config.gate import GateSettings

YAML = """
workload: w
model: {name: m}
task: {labels: [a, b]}
gate: {alpha: 0.1, margin: 0.01, least_gain: 0.1, beta: 0.1, late_labels: all, patience_s: 3600}
"""


def test_one_file_serves_the_daemon_and_runs_on_files(tmp_path: Path) -> None:
    path = tmp_path / "semievol.yaml"
    path.write_text(YAML)
    gate = load_config(DaemonConfig, path, {}).gate
    assert (gate.alpha, gate.margin, gate.late_labels, gate.patience_s) == (0.1, 0.01, "all", 3600.0)
    assert load_config(MethodConfig, path, {}, foreign=SERVICE_SECTIONS).gate == GateConfig(alpha=0.1)
    own = GateSettings.model_fields.keys() - GateConfig.model_fields.keys()
    assert {f"gate.{key}" for key in own} <= SERVICE_SECTIONS


def test_a_misspelled_key_is_an_error_for_both(tmp_path: Path) -> None:
    path = tmp_path / "semievol.yaml"
    path.write_text(YAML.replace("patience_s", "patience"))
    with pytest.raises(ConfigError, match=r"gate\.patience: unknown key"):
        load_config(DaemonConfig, path, {})
    with pytest.raises(ConfigError, match=r"gate\.patience: unknown key"):
        load_config(MethodConfig, path, {}, foreign=SERVICE_SECTIONS)
