"""Supervised LoRA fine-tuning as a job: a snapshot directory in, a published adapter out.

Owns the working directory (lock, progress, checkpoints, result) and the
process entry `python -m semievol.training.lora`. Owns not the job's files
(training.job), the gradient steps (training.lora_steps), nor who starts the process.
Invariant: the same snapshot on the same machine gives the same adapter, killed and resumed or not; a job that is
already done returns what it published. Imports no torch before it trains: launchers import this module.

On a CPU, start the process with MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_=17179869184 in its environment (glibc
otherwise maps and unmaps torch's large buffers at every step).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from semievol import adapter_directory
from semievol.adapter_directory import Manifest
from semievol.durable_files import write_durably
from semievol.errors import AdapterError, DataError, SemiEvolError, TransientError
from semievol.file_lock import FileLock
from semievol.plain_lines import one_line, warn_plainly
from semievol.training import group as training_group
from semievol.training.job import JOB_FILE, JOB_HASH_FILE, ROWS_FILE, TrainingJob, read_snapshot, snapshot_hash
from semievol.training.progress import LOSSES_FILE, PROGRESS_FILE, ProgressFile, TrainingProgress

RESULT_FILE = "result.json"
LOCK_FILE = "lock"
_CHECKPOINTS = "checkpoints"
_WEIGHTS = "adapter"

_LOCK_WAIT_S = 30.0
_ORPHANED_EXIT_CODE = 75
USAGE_EXIT_CODE = 2
"""The command line is wrong."""
BUSY_EXIT_CODE = 69
"""Another process trains in the working directory; to be tried again."""
LOST_EXIT_CODE = 76
"""One of several machines' processes failed, most likely because another one was lost; to be tried again."""


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """A published adapter."""

    path: Path
    name: str
    manifest: Manifest


def train(
    snapshot_dir: Path,
    work_dir: Path,
    adapters_dir: Path,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> TrainedAdapter:
    """Train the snapshot's job and publish the adapter.

    1. Lock `work_dir`; forget what another job left there; return at once when this job is already published.
    2. Train from the last complete checkpoint, or from the start; `progress.json` follows the steps.
    3. Record what the trained weights answer to the fingerprint prompts.
    4. Publish under `adapters_dir`, then write `result.json` and delete the checkpoints and the copied weights.

    Raises:
        DataError: the snapshot is unusable or has no rows.
        AdapterError: the parent adapter is unusable, or publishing failed.
        ConfigError: the model cannot be loaded or trained.
        TransientError: another trainer holds `work_dir`.
    """
    job, rows = read_snapshot(snapshot_dir)
    if not rows:
        raise DataError(f"{snapshot_dir / ROWS_FILE}: no rows, nothing to train on")
    adapter_directory.check_name(f"{job.name_prefix}-{'0' * 8}")
    work_dir.mkdir(parents=True, exist_ok=True)
    with _locked(work_dir):
        job_hash = snapshot_hash(snapshot_dir)
        _forget_other_job(work_dir, job_hash)
        finished = _finished(work_dir, adapters_dir)
        if finished is not None:
            return finished
        job = _with_parent(job, adapters_dir)
        progress = ProgressFile(work_dir / PROGRESS_FILE, on_progress)
        progress.report(TrainingProgress("starting"))

        from semievol.training import lora_steps as lora_trainer

        weights_dir = work_dir / _WEIGHTS
        command = [sys.executable, "-m", "semievol.training.lora", *_arguments(snapshot_dir, work_dir, adapters_dir)]
        with training_group.joined(
            job.training.processes, command, lambda text: _give_up(snapshot_dir, work_dir, text)
        ):
            fingerprint, summary = lora_trainer.run(job, rows, work_dir / _CHECKPOINTS, weights_dir, progress.report)
        progress.report(TrainingProgress("publishing", summary["steps"], summary["steps"]))
        path = adapter_directory.publish(
            weights_dir,
            adapters_dir,
            job.name_prefix,
            base_model=job.model.name,
            parent=None if job.parent is None else job.parent.name,
            round_number=job.round_number,
            seed=job.seed,
            training={"workload": job.workload, "kind": job.kind, "snapshot_sha256": job_hash, **summary},
            fingerprint=tuple(fingerprint),
        )
        manifest = adapter_directory.verify(path)
        _write_result(work_dir, {"path": str(path.resolve()), "name": path.name, "content_hash": manifest.content_hash})
        for needless in (_CHECKPOINTS, _WEIGHTS):  # what was published is a copy
            shutil.rmtree(work_dir / needless, ignore_errors=True)
        progress.report(TrainingProgress("done", summary["steps"], summary["steps"], summary["last_loss"]))
        return TrainedAdapter(path, path.name, manifest)


def assist(snapshot_dir: Path, work_dir: Path, adapters_dir: Path) -> None:
    """Take part in a training as another process than the first: this one was given a RANK above 0.

    The first one started it (`training.processes`), or torchrun started both.
    The first process owns lock, progress, checkpoints and publishing; this one computes its share of every batch.
    """
    job, rows = read_snapshot(snapshot_dir)
    if _is_of_job(work_dir, snapshot_hash(snapshot_dir)) and _finished(work_dir, adapters_dir) is not None:
        return
    from semievol.training import lora_steps as lora_trainer

    job = _with_parent(job, adapters_dir)
    lora_trainer.run(job, rows, work_dir / _CHECKPOINTS, work_dir / _WEIGHTS, lambda _: None)


def on_several_machines() -> bool:
    """Whether this process is one of several machines'; a launcher such as torchrun says so."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1


def _with_parent(job: TrainingJob, adapters_dir: Path) -> TrainingJob:
    """The job with its parent where that is now: the directories may have been moved since it was written."""
    if job.parent is None or job.parent.is_dir():
        return job
    return replace(job, parent=adapters_dir / job.parent.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The process entry: prints the result as one JSON line; on failure one line on stderr and a non-zero code."""
    parser = argparse.ArgumentParser(prog="python -m semievol.training.lora", description="Train one LoRA adapter.")
    parser.add_argument("--snapshot", type=Path, required=True, help=f"directory of {JOB_FILE} and {ROWS_FILE}")
    parser.add_argument("--work", type=Path, required=True, help="directory for checkpoints and progress")
    parser.add_argument("--adapters", type=Path, required=True, help="where the adapter directory is published")
    parser.add_argument("--parent-pid", type=int, help="end when this process is no longer the parent")
    options = parser.parse_args(arguments)
    warn_plainly()
    if os.getpid() == 1:  # in a container: the kernel ends the first process by no signal that it does not handle
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    # Read when torch is loaded. By default its threads spin while they wait for each other; on cores that are shared
    # with serving each then waits for the other's time slice, and a step takes ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if options.parent_pid is not None:
        _end_with_parent(options.parent_pid)
    try:
        if int(os.environ.get("RANK", "0")) > 0:
            assist(options.snapshot, options.work, options.adapters)
            return 0
        trained = train(options.snapshot, options.work, options.adapters)
    except Exception as error:  # the edge of the process: whoever started it reads the text, not a traceback
        text = str(error) if isinstance(error, SemiEvolError) else f"{type(error).__name__}: {error}"
        text = one_line(" ".join(text.split()))
        print(f"training failed: {text}", file=sys.stderr)
        if isinstance(error, TransientError):  # another trainer owns the directory, and its files
            return BUSY_EXIT_CODE
        # Over several machines what is not our own error is another machine's end, until it has happened too often.
        code = LOST_EXIT_CODE if on_several_machines() and not isinstance(error, SemiEvolError) else 1
        if int(os.environ.get("RANK", "0")) == 0:  # it reports for all
            _report_failure(options.snapshot, options.work, type(error).__name__, text, final=code == 1)
        return code
    result: dict[str, Any] = {"path": str(trained.path), "name": trained.name}
    result["content_hash"] = trained.manifest.content_hash
    result["rows_neutralised"] = trained.manifest.training.get("rows_neutralised", 0)
    print(json.dumps(result), flush=True)
    return 0


@contextlib.contextmanager
def _locked(work_dir: Path) -> Iterator[None]:
    """Hold the directory: a trainer that was killed may take a moment to end."""
    lock = FileLock.take(work_dir / LOCK_FILE, wait_s=_LOCK_WAIT_S)
    if lock is None:
        raise TransientError(f"{work_dir}: another trainer has held it for {_LOCK_WAIT_S:.0f} s")
    with lock:
        yield


def _forget_other_job(work_dir: Path, job_hash: str) -> None:
    """Checkpoints of other rows or settings must not be resumed, nor files of theirs be published with ours."""
    if _is_of_job(work_dir, job_hash):
        return
    shutil.rmtree(work_dir / _CHECKPOINTS, ignore_errors=True)
    shutil.rmtree(work_dir / _WEIGHTS, ignore_errors=True)
    (work_dir / RESULT_FILE).unlink(missing_ok=True)
    (work_dir / LOSSES_FILE).unlink(missing_ok=True)
    write_durably(work_dir / JOB_HASH_FILE, job_hash + "\n")


def _is_of_job(work_dir: Path, job_hash: str) -> bool:
    path = work_dir / JOB_HASH_FILE
    return path.exists() and path.read_text(encoding="ascii").strip() == job_hash


def _finished(work_dir: Path, adapters_dir: Path | None) -> TrainedAdapter | None:
    """What this job published earlier, if it is still whole; also where the directories have been moved since."""
    try:
        path = Path(json.loads((work_dir / RESULT_FILE).read_text(encoding="utf-8"))["path"])
        if not path.is_dir() and adapters_dir is not None:
            path = adapters_dir / path.name
        return TrainedAdapter(path, path.name, adapter_directory.verify(path))
    except (OSError, ValueError, KeyError, TypeError, AdapterError):
        return None


def _write_result(work_dir: Path, result: Mapping[str, Any]) -> None:
    write_durably(work_dir / RESULT_FILE, json.dumps(dict(result)) + "\n")


def _arguments(snapshot_dir: Path, work_dir: Path, adapters_dir: Path) -> list[str]:
    """What another process of this training is started with."""
    named = {"--snapshot": snapshot_dir, "--work": work_dir, "--adapters": adapters_dir}
    paths = [text for option, path in named.items() for text in (option, str(path))]
    return [*paths, "--parent-pid", str(os.getpid())]


def _give_up(snapshot_dir: Path, work_dir: Path, text: str) -> None:
    """End at once: a process that trained with this one has died, and the next exchange with it may wait for ever."""
    print(f"training failed: {text}", file=sys.stderr, flush=True)
    _report_failure(snapshot_dir, work_dir, "AdapterError", text, final=True)
    os._exit(1)


def _report_failure(snapshot_dir: Path, work_dir: Path, kind: str, text: str, *, final: bool) -> None:
    """Leave word of a failure. `final`: the same training would fail again."""
    result: dict[str, Any] = {"error": text, "kind": kind, "final": final}
    with contextlib.suppress(OSError):
        result["snapshot_sha256"] = snapshot_hash(snapshot_dir)
    with contextlib.suppress(OSError):
        work_dir.mkdir(parents=True, exist_ok=True)
        _write_result(work_dir, result)
        ProgressFile(work_dir / PROGRESS_FILE, None).report(TrainingProgress("failed"))


def _end_with_parent(parent_pid: int) -> None:
    """End this process soon after its parent has gone: an orphan would train on beside its successor."""

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(0.5)
        os._exit(_ORPHANED_EXIT_CODE)  # from a thread, in the middle of a step, nothing gentler ends the process

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
