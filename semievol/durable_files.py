"""Small files that outlive a crash: whoever reads one sees all of it, or the one before it.

Owns the order of writing, syncing and renaming. Owns no file: whoever writes knows its name and what stands in it.
Invariant: when a function here returns, what it wrote is on the disk under its final name.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_durably(path: Path, text: str) -> None:
    """Write a small file so that a crash leaves the old file or the new one, never a part of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def sync_tree(directory: Path) -> None:
    """Flush a directory and everything in it to the disk."""
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)


def sync(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
