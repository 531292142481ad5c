"""What was asked of the cluster and what it said, as it is shown in docs/cluster.md."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.cluster.commands import CommandError, run

COMMAND = re.compile(r"^\$ ", re.MULTILINE)


class Transcript:
    """Runs commands of a shell as a reader would, and remembers them with their output."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        """Commands run in `folder`."""
        self._folder, self._environment = folder, {"KUBECONFIG": str(kubeconfig)}
        self._begun = time.monotonic()
        self._parts: list[str] = []

    def title(self, text: str) -> None:
        self._parts.append(f"\n## {text}\n\n")
        print(f"\n[{self._elapsed():.0f} s] {text}", flush=True)

    def say(self, text: str) -> None:
        """A sentence between the commands."""
        self._parts.append(f"{text}\n\n")
        print(f"[{self._elapsed():.0f} s] {text}", flush=True)

    def shell(self, script: str, *, timeout_s: float = 120.0, shown: str | None = None) -> str:
        """Run commands one after the other, in one shell that ends with the first that fails; what they said.

        Args:
            shown: what the transcript has in place of `script`.
        """
        marked = "".join(f"printf '%s\\n' {_quoted('$ ' + each)}\n{each}\n" for each in commands_of(script))
        try:
            said = run("bash", "-euo", "pipefail", "-c", f"exec 2>&1\n{marked}", timeout_s=timeout_s,
                       environment=self._environment, folder=self._folder)  # fmt: skip
        except CommandError as error:
            print(error, flush=True)
            raise
        if shown is not None:
            said = f"$ {shown}\n" + "".join(line for line in said.splitlines(True) if not line.startswith("$ "))
        self._parts.append(f"```console\n{said.rstrip()}\n```\n\n")
        print(said.rstrip(), flush=True)
        return "".join(line for line in said.splitlines(True) if not line.startswith("$ "))

    def text(self) -> str:
        return "".join(self._parts).strip() + "\n"

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun


def commands_of(script: str) -> list[str]:
    """The commands of a shell block, each with its continuation lines; without comments and empty lines."""
    found: list[str] = []
    going_on = False
    for line in script.splitlines():
        if going_on:
            found[-1] += f"\n{line}"
        elif line.strip() and not line.lstrip().startswith("#"):
            found.append(line)
        else:
            continue
        going_on = line.endswith("\\")
    return found


def blocks(readme: str) -> list[str]:
    """The shell blocks of a document, without the lines that show what commands print (`>` before them)."""
    found = re.findall(r"^( *)```sh\n(.*?)^ *```$", readme, re.MULTILINE | re.DOTALL)
    return ["\n".join(_without_output(text, indent)) for indent, text in found]


def _without_output(text: str, indent: str) -> list[str]:
    lines = [line.removeprefix(indent) for line in text.splitlines()]
    return [line for line in lines if not line.startswith(("> ", "( "))]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
