"""One holder at a time: an exclusive lock on a file, for processes and threads of one machine.

Owns how it is taken (the kernel's lock, by the library filelock). Owns no file: whoever locks knows what it guards.
Invariant: a lock ends with its process, however that ends; a file that was left behind locks nothing.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import filelock


class FileLock:
    """A lock that is held, until `release` or the end of the context."""

    def __init__(self, lock: filelock.BaseFileLock) -> None:
        self._lock = lock

    @classmethod
    def take(cls, path: Path, *, wait_s: float = 0.0) -> FileLock | None:
        """The lock on `path`, which is made with its directory; None when another still holds it after `wait_s`.

        It may be released by another thread than the one that took it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        # Where a file system knows no locks of the kernel, the library would fall back to a file that outlives its
        # process; an error is better.
        lock = filelock.FileLock(path, thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire(timeout=wait_s)
        except filelock.Timeout:
            return None
        return cls(lock)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
