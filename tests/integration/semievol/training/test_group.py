"""Processes that train together: who they are told to be, and how they end."""

import os
import sys
import threading
from pathlib import Path

import pytest

from semievol.training import group as training_group
from semievol.training.group import joined

WRITE = "import os, sys; open(sys.argv[1] + os.environ['RANK'], 'w').write(' '.join(map(os.environ.get, sys.argv[2:])))"
NAMES = ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def not_started_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def unexpected(text: str) -> None:
    raise AssertionError(text)


def test_each_process_is_told_its_place_and_the_first_one_forgets_it_afterwards(tmp_path: Path) -> None:
    before = dict(os.environ)
    threads = str(max(1, (os.cpu_count() or 1) // 3))
    with joined(3, [sys.executable, "-c", WRITE, f"{tmp_path}/", *NAMES], unexpected):
        assert [os.environ[name] for name in ("RANK", *NAMES)] == ["0", "3", "0", "127.0.0.1", threads]
        assert os.environ["MASTER_PORT"].isdigit()
    assert (tmp_path / "1").read_text() == f"3 1 127.0.0.1 {threads}"
    assert (tmp_path / "2").read_text() == f"3 2 127.0.0.1 {threads}"
    assert dict(os.environ) == before


@pytest.mark.parametrize(("processes", "rank"), [(1, None), (4, "2")])
def test_nothing_is_started_for_one_process_nor_where_torchrun_has_started_them(
    monkeypatch: pytest.MonkeyPatch, processes: int, rank: str | None
) -> None:
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    before = dict(os.environ)
    with joined(processes, ["/no/such/program"], unexpected):
        assert dict(os.environ) == before


def test_the_first_one_hears_of_another_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_group, "_GRACE_S", 0.0)
    told, heard = [], threading.Event()

    def note(text: str) -> None:
        told.append(text)
        heard.set()

    with joined(2, [sys.executable, "-c", "raise SystemExit(3)"], note):
        assert heard.wait(60)
    assert told == ["process 1 of the training ended with exit code 3"]


def test_the_others_do_not_outlive_a_failure_of_the_first(tmp_path: Path) -> None:
    wait = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    marker = tmp_path / "pid"

    def fail_once_the_other_runs() -> None:
        with joined(2, [sys.executable, "-c", wait, str(marker)], unexpected):
            while not (marker.exists() and marker.read_text()):
                threading.Event().wait(0.01)  # nothing announces a process of another program
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        fail_once_the_other_runs()
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)
