"""Adapter directories without a model behind them: what is published, copied and refused is their bytes."""

from __future__ import annotations

from pathlib import Path

from semievol import adapter_directory
from semievol.errors import TransientError
from semievol.file_lock import FileLock


def small_adapter(adapters: Path, prefix: str, weights: bytes) -> Path:
    """Publish `weights` under a name that begins with `prefix`; return the directory.

    One process at a time, as a trainer's lock has it: a former leader may train still when the next one does.

    Raises:
        TransientError: another process stands still in it.
    """
    lock = FileLock.take(adapters.parent / f"lock-{adapters.name}-{prefix}", wait_s=1.0)
    if lock is None:
        raise TransientError("another process trains")
    with lock:
        return _published(adapters, prefix, weights)


def _published(adapters: Path, prefix: str, weights: bytes) -> Path:
    work = adapters.parent / f"work-{adapters.name}-{prefix}"
    work.mkdir(parents=True, exist_ok=True)
    (work / adapter_directory.CONFIG_FILE).write_text("{}", encoding="utf-8")
    (work / adapter_directory.WEIGHTS_FILE).write_bytes(weights)
    return adapter_directory.publish(
        work, adapters, prefix, base_model="tiny", parent=None, round_number=1, seed=0, training={}
    )
