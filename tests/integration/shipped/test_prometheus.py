"""Prometheus' own tool reads what deploy/ ships for it and for Grafana."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import yaml

from tests.servers import unavailable

DEPLOY = Path(__file__).parents[3] / "deploy"


def promtool(*arguments: str) -> None:
    if shutil.which("promtool") is None:
        unavailable("promtool is missing (Debian: apt-get install prometheus)")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_shipped_configuration_has_no_fault() -> None:
    promtool("check", "config", "--lint=all", "--lint-fatal", str(DEPLOY / "prometheus" / "prometheus.yml"))


def test_every_question_of_the_dashboards_is_well_formed(tmp_path: Path) -> None:
    files = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
    boards = [json.loads(file.read_text("utf-8")) for file in files]
    questions = [target["expr"] for board in boards for panel in board["panels"] for target in panel.get("targets", [])]
    questions += [annotation["expr"] for board in boards for annotation in board["annotations"]["list"]]
    assert len(questions) > 80
    filled = [
        each.replace("$__rate_interval", "1m").replace("$workload", ".+").replace("$instance", ".+")
        for each in questions
    ]
    rules = [{"record": f"question_{number}", "expr": expr} for number, expr in enumerate(filled)]
    file = tmp_path / "questions.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    promtool("check", "rules", str(file))
