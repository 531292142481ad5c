"""Files that outlive a crash: whoever reads one sees all of it, or the one before it.

Owns the order of writing, syncing and renaming. Owns no file: whoever writes knows its name and what stands in it.
Invariant: under its final name a file or directory is whole, whenever the process or the machine ends; when a function
returns, it is on the disk too (`write_whole` alone does not wait for that).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def write_durably(path: Path, text: str) -> None:
    """Write a small file so that a crash leaves the old file or the new one, never a part of it."""
    with replaced(path) as file:
        file.write(text)


def write_whole(path: Path, text: str) -> None:
    """As `write_durably`, for what is written often and needed by nobody after a crash of the machine."""
    with replaced(path, synced=False) as file:
        file.write(text)


@contextmanager
def replaced(path: Path, *, synced: bool = True) -> Iterator[TextIO]:
    """A new file that takes the place of `path` when the context ends; after an error the old one stays."""
    temporary = _beside(path)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            if synced:
                _flush(file)
        temporary.replace(path)
    except OSError as error:
        raise named(error, temporary, path) from None
    finally:
        temporary.unlink(missing_ok=True)
    if synced:
        _sync(path.parent)


def create_durably(path: Path, text: str, *, mode: int) -> bool:
    """Write a file that is not there yet, with these permissions.

    Returns:
        False where there is one, perhaps of another process that was first: it stays, and is whole.
    """
    temporary = _beside(path)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
            _flush(file)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)
    return True


def publish_directory(made: Path, target: Path) -> None:
    """Give a directory that is finished its final name, in one step and after all that is in it.

    Raises:
        OSError: the name is taken, by a directory that is not empty or by a file; `made` is as it was.
    """
    sync_tree(made)
    made.rename(target)
    _sync(target.parent)


def sync_tree(directory: Path) -> None:
    """Flush a directory and everything in it to the disk."""
    for path in directory.rglob("*"):
        _sync(path)
    _sync(directory)


def named(error: OSError, temporary: Path, path: Path) -> OSError:
    """The error as one of the file that was meant, where it is one of its temporary's."""
    if error.filename is not None and os.fspath(error.filename) != str(temporary):
        return error
    return OSError(error.errno, error.strerror, str(path))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _flush(file: TextIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
