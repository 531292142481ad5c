"""Programs run to their end, within a bound, with what they said in the error."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class CommandError(Exception):
    """A program failed or took too long; the text has the end of what it said."""


def run(
    *command: str | Path,
    timeout_s: float = 60.0,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    check: bool = True,
) -> str:
    """Standard output of a program.

    Raises:
        CommandError: it ended with another status than 0 (unless `check` is off), or not in time.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(words[:6])}: did not end within {timeout_s:.0f} s") from error
    if check and done.returncode != 0:
        raise CommandError(f"{' '.join(words[:6])}: {end_of(done.stdout + done.stderr)}")
    return done.stdout


def end_of(text: str, characters: int = 3_000) -> str:
    return text.strip()[-characters:]


def waited(what: str, look: Callable[[], T | None], timeout_s: float, pause_s: float = 0.5) -> T:
    """What `look` gives as soon as it gives anything (not None, not False).

    Raises:
        CommandError: it gave nothing in time; with what was wrong the last time.
    """
    deadline = time.monotonic() + timeout_s
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            found = look()
        except (CommandError, OSError, ValueError) as error:
            last = error
        else:
            if found is not None and found is not False:
                return found
            last = None
        time.sleep(pause_s)
    raise CommandError(f"{what}: not within {timeout_s:.0f} s" + (f" ({last})" if last else "")) from last
