"""The training child: its result, its failure and its end."""

import asyncio
import fcntl
import os
import signal
from pathlib import Path

import pytest

from semievol.config.method import ModelConfig, TrainingConfig
from semievol.errors import AdapterError, TransientError
from semievol.training.job import TrainingJob, write_snapshot
from semievol.training.process import train_in_subprocess
from semievol.types import Message, TrainingRow


def alive(marker: str) -> bool:
    """Whether a process runs whose command line holds `marker`."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in command.read_bytes() and command.parent.name != str(os.getpid()):
                return True
        except OSError:
            continue
    return False


async def test_a_training_that_fails_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"exit code 1: .*job.json"):
        await train_in_subprocess(tmp_path / "none", tmp_path / "work", tmp_path / "adapters", lambda percent: None)
    assert "job.json" in (tmp_path / "work" / "trainer.log").read_text()


async def test_the_child_does_not_outlive_a_cancelled_call(tmp_path: Path) -> None:
    call = asyncio.create_task(
        train_in_subprocess(tmp_path / "none", tmp_path / "work", tmp_path / "adapters", lambda percent: None)
    )
    async with asyncio.timeout(30):
        while not alive(str(tmp_path / "none")):  # noqa: ASYNC110 (nothing announces a process of another program)
            await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not alive(str(tmp_path / "none"))


def child_of(marker: str) -> int | None:
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in command.read_bytes() and command.parent.name != str(os.getpid()):
                return int(command.parent.name)
        except OSError:
            continue
    return None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_child_that_is_told_to_end_has_not_failed_and_takes_no_signals_of_our_terminal(
    number: signal.Signals, tmp_path: Path
) -> None:
    """A service manager tells every process of a service to end, and the training may be gone before we hear of it."""
    job = TrainingJob("w", 0, "warm", 0, ModelConfig(name="none"), TrainingConfig(), 0.1, 1, "w-r0000")
    write_snapshot(tmp_path / "snapshot", job, [TrainingRow("a", (Message("user", "?"),), "a", "example")])
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the child waits for it, with all that it needs
        call = asyncio.create_task(
            train_in_subprocess(tmp_path / "snapshot", tmp_path / "work", tmp_path / "adapters", lambda percent: None)
        )
        async with asyncio.timeout(60):
            while (child := child_of(str(tmp_path / "snapshot"))) is None or not _waits(child):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert os.getsid(child) != os.getsid(0)
        os.kill(child, number)
        with pytest.raises(TransientError, match=f"stopped by {number.name}; it goes on from its last checkpoint"):
            await call


def _waits(process: int) -> bool:
    """Whether it has opened the lock file, and so has come past all imports."""
    try:
        return any("lock" in os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False
