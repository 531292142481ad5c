"""uv, for tests of what ships: the one that made the environment, and its cache: a second run downloads nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.servers import unavailable

ROOT = Path(__file__).resolve().parents[1]
_UNREACHABLE = ("Failed to fetch", "Failed to download", "Request failed after", "error sending request")
_OWN_FAULT = "Hash mismatch"


def located() -> str:
    """Path of uv; the test is skipped where there is none."""
    remembered = ROOT / ".venv" / ".uv"
    found = shutil.which(remembered.read_text("utf-8").strip() if remembered.is_file() else "uv")
    if found is None:
        unavailable("no uv: run `make setup`, or put uv on the PATH")
    return found


def shell(
    command: str, directory: Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which `uv` is a command; the test is skipped where the package index does not answer."""
    environment = {"UV_CACHE_DIR": str(ROOT / ".cache" / "uv"), **os.environ, **(variables or {})}
    environment["PATH"] = f"{Path(located()).parent}{os.pathsep}{environment['PATH']}"
    environment.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env=environment, cwd=directory, check=False
    )
    if done.returncode and _OWN_FAULT not in done.stderr and any(text in done.stderr for text in _UNREACHABLE):
        unavailable(f"the package index does not answer: {done.stderr.strip()[-300:]}")
    return done


def succeed(command: str, directory: Path, variables: Mapping[str, str] | None = None) -> str:
    """What the line wrote to its standard output."""
    done = shell(command, directory, variables)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout
