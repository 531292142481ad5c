"""Where the curve of a training is written beside its progress: TensorBoard and MLflow, by `training.log_to`.

Owns the callbacks that transformers' Trainer reports to, and what their runs are called. Owns not what is logged: loss,
gradient norm and learning rate come from the Trainer. Invariant: a package that is missing is a ConfigError before the
model is loaded, never a training without its log.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from semievol.errors import ConfigError
from semievol.training.job import JOB_HASH_FILE, TrainingJob


def check(job: TrainingJob) -> None:
    """Raises:
    ConfigError: a package of `training.log_to` is missing.
    """
    for kind in job.training.log_to:
        if importlib.util.find_spec(kind) is None:
            raise ConfigError(
                f"training.log_to: the package of {kind} is missing; install semievol[{kind}], or leave {kind} out"
            )


def callbacks(job: TrainingJob, work_dir: Path, first_step: int) -> list[Any]:
    """The Trainer's callbacks for `training.log_to`; for the process that publishes alone.

    Args:
        job: names the runs: the workload, and the prefix of the adapter. Runs on files are all called alike by these:
            a folder of TensorBoard's also has the first digits of the snapshot's hash, as in the manifest.
        work_dir: the training's; holds TensorBoard's files where no directory is set.
        first_step: the first one that is trained now. What an earlier process logged from there on is dropped from
            TensorBoard; MLflow gets a further run.
    """
    kinds = job.training.log_to
    return [_tensorboard(job, work_dir, first_step) if kind == "tensorboard" else _mlflow(job) for kind in kinds]


def _tensorboard(job: TrainingJob, work_dir: Path, first_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    directory = work_dir / "tensorboard"
    if job.training.tensorboard_directory is not None:
        digits = (work_dir / JOB_HASH_FILE).read_text(encoding="ascii")[:8]
        directory = job.training.tensorboard_directory / f"{job.workload}-{job.name_prefix}-{digits}"
    return TensorBoardCallback(SummaryWriter(str(directory), purge_step=first_step))


def _mlflow(job: TrainingJob) -> Any:
    from transformers.integrations import MLflowCallback

    # The callback reads its settings from the environment alone; this process trains and does nothing else.
    if job.training.mlflow_uri is not None:
        os.environ["MLFLOW_TRACKING_URI"] = job.training.mlflow_uri
    os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", job.workload)
    return MLflowCallback()
