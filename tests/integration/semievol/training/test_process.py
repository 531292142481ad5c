"""The training child: its result, its failure and its end."""

import asyncio
import os
from pathlib import Path

import pytest

from semievol.errors import AdapterError
from semievol.training.process import train_in_subprocess


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
