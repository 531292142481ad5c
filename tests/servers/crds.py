"""The definitions of the custom resources that k8s/ ships, from the Go modules of those who serve them.

`python -m tests.servers.crds --fetch` keeps them in `.cache/crds`. A module is fetched as it was published, and nothing
of it is built.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".cache" / "crds"
MODULES = {
    "github.com/kedacore/keda/v2@v2.21.0": (
        "config/crd/bases/keda.sh_scaledobjects.yaml",
        "config/crd/bases/keda.sh_triggerauthentications.yaml",
        # Which keys a trigger takes is said by its scaler alone.
        "pkg/scalers/kafka_scaler.go",
        "pkg/scalers/prometheus_scaler.go",
    ),
    "sigs.k8s.io/kueue@v0.17.0": ("config/components/crd/bases/kueue.x-k8s.io_localqueues.yaml",),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
}


def kept(module: str) -> Path:
    """The folder of a module's files."""
    return KEPT / module.replace("/", "_")


def is_kept(module: str) -> bool:
    """Whether all of them are there; an earlier version of this list may have brought fewer."""
    return all((kept(module) / Path(file).name).is_file() for file in MODULES[module])


def go() -> str | None:
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def fetch() -> None:
    """Bring what is missing.

    Raises:
        SystemExit: Go is missing, or a module cannot be had.
    """
    for module, files in MODULES.items():
        if is_kept(module):
            continue
        program = go()
        if program is None:
            raise SystemExit("Go is missing (Debian: apt-get install golang-go)")
        with tempfile.TemporaryDirectory() as folder:
            # Outside of any module; no other version of Go is fetched for it.
            environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-modcacherw"}
            done = subprocess.run(
                [program, "mod", "download", "-json", module],
                capture_output=True,
                text=True,
                check=False,
                cwd=folder,
                env=environment,
            )
            if done.returncode != 0:
                raise SystemExit(f"{module}: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
            source = Path(json.loads(done.stdout)["Dir"])
            unfinished = Path(folder) / "files"
            unfinished.mkdir()
            for file in files:
                shutil.copyfile(source / file, unfinished / Path(file).name)
            KEPT.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(kept(module), ignore_errors=True)
            shutil.move(unfinished, kept(module))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.servers.crds", description=__doc__.splitlines()[0])
    parser.add_argument("--fetch", action="store_true", help="bring what is missing into .cache/crds")
    if parser.parse_args().fetch:
        fetch()


if __name__ == "__main__":
    main()
