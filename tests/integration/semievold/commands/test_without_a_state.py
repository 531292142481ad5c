"""Commands over a state that is not there: a directory may be mistyped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LOOKS = (
    ["status"],
    ["explain", "q1"],
    ["freeze"],
    ["thaw"],
    ["rounds", "list"],
    ["rounds", "start"],
    ["adapters", "list"],
    ["adapters", "rollback"],
    ["labels", "export", "-"],
    ["labels", "retract", "e1"],
    ["review", "list"],
    ["offsets", "show"],
    ["state", "size"],
    ["drift", "list"],
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "semievol.yaml"
    settings = {
        "workload": "w",
        "model": {"name": str(tmp_path / "model")},
        "task": {"labels": ["yes", "no"]},
        "artifacts": {"directory": str(tmp_path / "data")},
    }
    path.write_text(yaml.safe_dump(settings), "utf-8")
    return path


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "semievold.commands.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_what_only_looks_or_asks_says_that_there_is_none_and_makes_none(config: Path, words: list[str]) -> None:
    done = run(*words, "-c", str(config))
    assert done.returncode == 2
    assert str(config.parent / "data" / "state.db") in done.stderr
    assert "artifacts.directory" in done.stderr
    assert not (config.parent / "data").exists()


def test_queries_may_come_before_the_daemon(config: Path, tmp_path: Path) -> None:
    source = tmp_path / "queries.jsonl"
    source.write_text(json.dumps({"question": "red?"}) + "\n", "utf-8")
    assert run("queries", "import", str(source), "-c", str(config)).returncode == 0
    done = run("status", "-o", "json", "-c", str(config))
    assert done.returncode == 0
    assert json.loads(done.stdout)["queries_waiting"] == 1
