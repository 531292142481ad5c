"""The virtual environment of the trainer that ours is measured against: TRL, beside the project's own versions.

Made once into `.cache/trl-venv`. What both need has the version of requirements.lock, so that the two differ in the
trainer alone and uv's cache shares the files.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".cache" / "trl-venv"
PYTHON = ENVIRONMENT / "bin" / "python"
PACKAGES = ("trl==1.16.0", "datasets==5.2.0", "peft", "transformers", "accelerate")
_LOCK = ROOT / "requirements.lock"
_STAMP = "packages.sha256"


def install() -> None:
    """Make the environment unless it is there already; a killed installation leaves nothing half-made.

    Raises:
        SystemExit: no uv, or the packages cannot be had.
    """
    wanted = hashlib.sha256("\n".join(PACKAGES).encode() + _LOCK.read_bytes()).hexdigest()
    stamp = ENVIRONMENT / _STAMP
    ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
    with (ENVIRONMENT.parent / "trl-venv.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
            return
        print(f"making {ENVIRONMENT} with {PACKAGES[0]} (once)", flush=True)
        unfinished = ENVIRONMENT.with_name("trl-venv.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        _uv("venv", "--quiet", "--python", sys.executable, str(unfinished))
        python = unfinished / "bin" / "python"
        _uv("pip", "install", "--quiet", "--python", str(python), "-c", str(_LOCK), *PACKAGES)
        (unfinished / _STAMP).write_text(wanted, encoding="ascii")
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        unfinished.rename(ENVIRONMENT)


def _uv(*arguments: str) -> None:
    remembered = ROOT / ".venv" / ".uv"
    uv = remembered.read_text(encoding="utf-8").strip() if remembered.is_file() else "uv"
    if shutil.which(uv) is None:
        raise SystemExit("TRL's environment needs uv to install: run `make setup`, or put uv on the PATH")
    environment = {"UV_CACHE_DIR": str(ROOT / ".cache" / "uv"), **os.environ}
    if subprocess.run([uv, *arguments], env=environment, cwd=ROOT, check=False).returncode:
        raise SystemExit(f"cannot make {ENVIRONMENT}: the installer's own message is above")
