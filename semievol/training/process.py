"""A training as a child process, so that its memory is returned and a crash harms nobody.

Owns the command line of the child (`python -m semievol.training.lora`), its environment and the reading of its
progress. What training does is in lora. Invariants: the child never outlives the call that started it; a child that was
stopped (by a signal to end) has not failed: it goes on from its last checkpoint.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from semievol.child_environment import TRAINER, inherited
from semievol.engines.plain.tally import NEUTRALISED
from semievol.errors import AdapterError, TransientError
from semievol.file_lock import FileLock
from semievol.protocols import Progress
from semievol.training.lora import BUSY_EXIT_CODE, LOCK_FILE
from semievol.training.progress import read_progress

# torch's large buffers make glibc map and unmap memory at every step; keeping it saves a third of a step on a CPU.
ENVIRONMENT: Mapping[str, str] = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "TOKENIZERS_PARALLELISM": "false",
}
LOG_FILE = "trainer.log"
"""In the working directory: what the trainer said."""

_TOLD_TO_END = frozenset({-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP})
_STOP_S = 10.0
_POLL_S = 0.5


async def train_in_subprocess(
    snapshot: Path, work: Path, adapters: Path, progress: Progress | None = None, *, inherit: Sequence[str] = ()
) -> Path:
    """Train what `snapshot` describes, from the last checkpoint in `work`, and return the published adapter directory.

    `progress` is told each further percent of the steps. Cancelling stops the child. What the child says is kept in
    `work/trainer.log`. Of the environment it gets what it needs, and the variables named in `inherit`.

    Raises:
        AdapterError: the training failed; the text holds the last line of its log.
        TransientError: another process trains in `work`, one whose daemon has stopped leading, say; or somebody told
            the child to end, as a service manager tells all processes of a service, each by itself.
    """
    arguments = ["--snapshot", str(snapshot), "--work", str(work), "--adapters", str(adapters)]
    with _opened_log(work) as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "semievol.training.lora", *arguments, "--parent-pid", str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**ENVIRONMENT, **inherited((*TRAINER, *inherit))},
            start_new_session=True,  # Ctrl-C is for us: we stop the child, and know that we did
        )
        watching = None if progress is None else asyncio.create_task(_watch(work, progress), name="training-progress")
        try:
            output, _ = await process.communicate()
        finally:
            if watching is not None:
                watching.cancel()
            await _stop(process)
    if process.returncode == BUSY_EXIT_CODE:
        raise TransientError(_last_line(work / LOG_FILE))
    if process.returncode in _TOLD_TO_END:
        name = signal.Signals(-process.returncode).name
        raise TransientError(f"the training was stopped by {name}; it goes on from its last checkpoint")
    if process.returncode != 0:
        raise AdapterError(f"training failed with exit code {process.returncode}: {_last_line(work / LOG_FILE)}")
    result = json.loads(output.decode().strip().splitlines()[-1])
    NEUTRALISED.add("training", result["rows_neutralised"])
    return Path(result["path"])


def is_held(work: Path) -> bool:
    """Whether a trainer is at work in this directory, whoever started it. Blocking."""
    path = work / LOCK_FILE
    if not path.exists():
        return False
    lock = FileLock.take(path)  # for a moment; a trainer that begins just now waits for longer than that
    if lock is None:
        return True
    lock.release()
    return False


async def _watch(work: Path, progress: Progress) -> None:
    """Forward the percentage of finished steps for as long as the training runs."""
    told = 0
    while True:
        await asyncio.sleep(_POLL_S)
        percent = _percent(work)
        if percent > told:
            progress(percent - told)
            told = percent


def _percent(work: Path) -> int:
    record = read_progress(work) or {}
    return int(100 * record.get("step", 0) / max(record.get("total_steps", 0), 1))


def _opened_log(work: Path) -> BinaryIO:
    work.mkdir(parents=True, exist_ok=True)
    return (work / LOG_FILE).open("ab")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Make sure that the child has ended."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "it left no message"
