"""Prometheus' own tool reads what deploy/prometheus ships."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.servers import unavailable

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "prometheus" / "prometheus.yml"


def test_promtool_finds_no_fault_in_the_shipped_configuration() -> None:
    if shutil.which("promtool") is None:
        unavailable("promtool is missing (Debian: apt-get install prometheus)")
    done = subprocess.run(
        ["promtool", "check", "config", "--lint=all", "--lint-fatal", str(CONFIGURATION)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
