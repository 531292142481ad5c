from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from semievol.file_lock import FileLock

HOLDER = """
import sys, time
from pathlib import Path
from semievol.file_lock import FileLock
lock = FileLock.take(Path(sys.argv[1]))
print(lock is not None, flush=True)
time.sleep(60)
"""


def test_a_lock_is_refused_while_another_process_holds_it_and_free_when_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline().strip() == "True"
            assert FileLock.take(path) is None
        finally:
            holder.kill()
    assert path.exists()
    lock = FileLock.take(path)
    assert lock is not None
    lock.release()


def test_two_holders_in_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    first = FileLock.take(tmp_path / "lock")
    assert first is not None
    with first:
        assert FileLock.take(tmp_path / "lock") is None
    second = FileLock.take(tmp_path / "lock")
    assert second is not None
    second.release()


def test_a_lock_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    first = FileLock.take(tmp_path / "lock")
    assert first is not None
    with first:
        started = time.monotonic()
        assert FileLock.take(tmp_path / "lock", wait_s=0.1) is None
        assert 0.1 <= time.monotonic() - started < 5


def test_a_lock_that_another_thread_releases_goes_to_whoever_waits(tmp_path: Path) -> None:
    first = FileLock.take(tmp_path / "lock")
    assert first is not None
    releasing = threading.Timer(0.1, first.release)
    releasing.start()
    second = FileLock.take(tmp_path / "lock", wait_s=30)
    releasing.join()
    assert second is not None
    second.release()
