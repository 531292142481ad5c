"""The environments of the client libraries: pinned with hashes, made once into `.cache/clients-venv`.

Two of Python's, for instructor and llama-index do not go with the newest openai-python, and one of Node.js. Invariant:
what lies under an environment's final name is what its lock lists; its stamp is the lock's hash.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests import uv_command

HERE = Path(__file__).parent
HOME = uv_command.ROOT / ".cache" / "clients-venv"
PACKAGES = HOME / "npm"
REQUIREMENTS = {
    "newest": ("openai", "langchain-openai", "litellm!=1.107.*", "pydantic-ai-slim[openai]"),
    "earlier": ("openai", "instructor", "llama-index-llms-openai>=0.8", "llama-index-llms-openai-like>=0.8"),
}
"""What each lock resolves. litellm 1.107 was taken off the index: somebody else had published it."""
_STAMP = "lock.sha256"


def python(name: str) -> Path:
    """The interpreter of an environment, whether it is there or not."""
    return HOME / name / "bin" / "python"


def lock(name: str) -> Path:
    return HERE / f"{name}.lock"


def install(name: str) -> None:
    """Make one of Python's environments unless it is there; the test is skipped where the index does not answer."""
    if _is_current(HOME / name, lock(name)):
        return
    unfinished = HOME / f"{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    HOME.mkdir(parents=True, exist_ok=True)
    uv_command.succeed(f"uv venv --quiet --python '{sys.executable}' '{unfinished}'", uv_command.ROOT)
    into = f"--python '{unfinished}/bin/python' --no-deps --require-hashes --only-binary :all:"
    uv_command.succeed(f"uv pip install --quiet {into} -r '{lock(name)}'", uv_command.ROOT)
    _finish(unfinished, HOME / name, lock(name))


def node_missing() -> str | None:
    """Bring the packages for Node.js; why they cannot be had, or None."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "no node and npm on the PATH"
    listed = HERE / "npm" / "package-lock.json"
    if _is_current(PACKAGES, listed):
        return None
    unfinished = HOME / "npm.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(HERE / "npm", unfinished)
    # No scripts: what a package wants to run at its installation, no test needs.
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", str(HOME / "npm-cache")]
    done = subprocess.run(command, cwd=unfinished, capture_output=True, text=True, check=False, env=os.environ.copy())
    if done.returncode:
        return f"npm cannot install its packages: {done.stderr.strip()[-300:]}"
    _finish(unfinished, PACKAGES, listed)
    return None


def renew_locks() -> None:
    """Resolve Python's locks again. npm's: `npm update --package-lock-only` in tests/clients/npm."""
    options = "--universal --python-version 3.11 --generate-hashes --no-annotate --quiet --upgrade"
    for name, wanted in REQUIREMENTS.items():
        given = " ".join(f"'{each}'" for each in wanted)
        command = f"printf '%s\\n' {given} | uv pip compile {options} --custom-compile-command"
        uv_command.succeed(
            f"{command} 'python -m tests.clients.environments --renew' - -o '{lock(name)}'", uv_command.ROOT
        )


def version(name: str, package: str) -> str:
    """The version that a lock holds."""
    (line,) = [each for each in lock(name).read_text("utf-8").splitlines() if each.startswith(f"{package}==")]
    return line.split("==")[1].split()[0]


def _is_current(directory: Path, listed: Path) -> bool:
    stamp = directory / _STAMP
    return stamp.is_file() and stamp.read_text("ascii") == hashlib.sha256(listed.read_bytes()).hexdigest()


def _finish(unfinished: Path, directory: Path, listed: Path) -> None:
    (unfinished / _STAMP).write_text(hashlib.sha256(listed.read_bytes()).hexdigest(), "ascii")
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.clients.environments", description=__doc__.splitlines()[0])
    parser.add_argument("--renew", action="store_true", help="resolve the locks again")
    if parser.parse_args().renew:
        renew_locks()
