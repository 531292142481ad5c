"""kube-score, which says what a careful reader would object to in manifests: built from its Go module.

`python -m tests.servers.kube_score --build` keeps the program in `.cache/kube-score`. It takes a minute, so that
nothing but `make kube-score` asks for it, and its test is skipped where it is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.servers import crds

VERSION = "v1.20.0"
MODULE = f"github.com/zegl/kube-score/cmd/kube-score@{VERSION}"
PROGRAM = Path(__file__).resolve().parents[2] / ".cache" / "kube-score" / VERSION / "kube-score"
CRITICAL = 1
"""Grades: 1 critical, 5 a warning, 10 well."""


def build() -> None:
    """Build it unless it is there.

    Raises:
        SystemExit: Go is missing, or the module cannot be had.
    """
    if PROGRAM.is_file():
        return
    go = crds.go()
    if go is None:
        raise SystemExit("Go is missing (Debian: apt-get install golang-go), so kube-score cannot be built")
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOBIN": str(PROGRAM.parent), "GOFLAGS": "-modcacherw"}
    done = subprocess.run([go, "install", MODULE], capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{MODULE}: {done.stderr.strip().splitlines()[-1]}")


def findings(manifests: str, kubernetes: str) -> list[dict[str, Any]]:
    """What it says of every object, check by check.

    Args:
        manifests: YAML.
        kubernetes: the version that they are for, as `v1.34`.
    """
    command = [str(PROGRAM), "score", "-", "--output-format", "json", "--kubernetes-version", kubernetes]
    done = subprocess.run(command, input=manifests, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("["), done.stdout + done.stderr
    return list(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.servers.kube_score", description=__doc__.splitlines()[0])
    parser.add_argument("--build", action="store_true", help="build it into .cache/kube-score unless it is there")
    if parser.parse_args().build:
        build()


if __name__ == "__main__":
    main()
