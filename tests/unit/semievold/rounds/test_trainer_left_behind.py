"""A trainer whose daemon leads no more holds its directory, and with it the GPU: the next leader knows of it."""

from __future__ import annotations

from pathlib import Path

from semievol.file_lock import FileLock
from semievol.training.lora import LOCK_FILE
from semievold.rounds.launch import SubprocessLauncher


async def test_who_holds_the_directory_of_a_round_trains_still(tmp_path: Path) -> None:
    launcher = SubprocessLauncher(rounds=tmp_path / "rounds")
    assert not await launcher.trains()
    (tmp_path / "rounds" / "r0002" / "work").mkdir(parents=True)
    assert not await launcher.trains()
    assert list((tmp_path / "rounds").rglob("*lock*")) == []  # asking leaves nothing behind
    held = FileLock.take(tmp_path / "rounds" / "r0003" / "work" / LOCK_FILE)
    assert held is not None
    assert await launcher.trains()
    assert not await SubprocessLauncher().trains()
    held.release()
    assert not await launcher.trains()
