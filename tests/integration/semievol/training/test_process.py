"""The training child: its result, its failure and its end."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
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
    if signal.getsignal(number) is signal.SIG_IGN:  # as of SIGINT in what a shell starts with &
        pytest.skip(f"this process ignores {number.name}, and so do its children")
    job = TrainingJob("w", 0, "warm", 0, ModelConfig(name="none"), TrainingConfig(), 0.1, 1, "w-r0000")
    write_snapshot(tmp_path / "snapshot", job, [TrainingRow("a", (Message("user", "?"),), "a", "example")])
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the child waits for it, with all that it needs
        call = asyncio.create_task(
            train_in_subprocess(tmp_path / "snapshot", tmp_path / "work", tmp_path / "adapters", lambda percent: None)
        )
        async with asyncio.timeout(60):
            waits = 0
            while waits < 10:  # in a row: past all imports it does nothing but sleep
                await asyncio.sleep(0.05)
                child = child_of(str(tmp_path / "snapshot"))
                waits = waits + 1 if child is not None and _sleeps(child) else 0
        assert child is not None
        assert os.getsid(child) != os.getsid(0)
        os.kill(child, number)
        with pytest.raises(TransientError, match=f"stopped by {number.name}; it goes on from its last checkpoint"):
            await call


def _sleeps(process: int) -> bool:
    """Whether it has loaded pydantic, as the job's settings need it, and sleeps at this moment."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "S" and "pydantic" in Path(f"/proc/{process}/maps").read_text()
    except OSError:
        return False


STAND_IN = """#!{python}
import json, os, sys
said = {{"environment": dict(os.environ), "descriptors": os.listdir("/proc/self/fd"), "umask": os.umask(0)}}
with open({file!r}, "w") as file:
    json.dump(said, file)
print(json.dumps({{"path": "made", "rows_neutralised": 0}}))
"""


async def test_a_training_inherits_what_it_needs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in, seen = tmp_path / "python", tmp_path / "seen.json"
    stand_in.write_text(STAND_IN.format(python=sys.executable, file=str(seen)))
    stand_in.chmod(0o700)
    for name in ("SEMIEVOL__API__TOKEN", "PGPASSWORD", "WANTED", "HF_HOME", "MLFLOW_TRACKING_URI", "VLLM_API_KEY"):
        monkeypatch.setenv(name, "known")
    monkeypatch.setattr(sys, "executable", str(stand_in))
    with (tmp_path / "open").open("w") as ours, socket.socket() as another:
        os.set_inheritable(another.fileno(), True)
        assert ours.fileno() > 2
        made = await train_in_subprocess(tmp_path, tmp_path, tmp_path, inherit=("WANTED",))
    assert made == Path("made")
    said = json.loads(seen.read_text())
    known = {name for name, value in said["environment"].items() if value == "known"}
    assert known == {"WANTED", "HF_HOME", "MLFLOW_TRACKING_URI"}
    assert set(said["descriptors"]) <= {"0", "1", "2", "3"}  # 3: the listing itself
