"""What `semievol train` does: one adapter from a file of examples and the pseudo-labels that selection keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semievol.commands.retrieval import embedder_of, index_over
from semievol.commands.trainer import left_out_of_training, trainer_of
from semievol.config.method import MethodConfig
from semievol.errors import ConfigError
from semievol.examples.choices import settled
from semievol.examples.files import read_examples, read_pseudo_labels, rows_of
from semievol.examples.split import split_calibration
from semievol.recipe import select_labels
from semievol.runs.directory import Kind, locked_directory
from semievol.tasks.task import Task
from semievol.teaching import Watcher, adapt, make_training_job
from semievol.training.job import write_snapshot
from semievol.types import Example


async def run_train(
    config: MethodConfig, examples: Path, pseudo_labels: Path | None, out: Path, parent: Path | None, watcher: Watcher
) -> dict[str, Any]:
    """`semievol train`: one adapter from examples and, where given, the pseudo-labels that selection keeps."""
    from semievol.labelling.propagation import training_rows

    config = settled(config, examples)
    trainer = trainer_of(config)
    task = Task(config.task)
    labelled = read_examples(examples, task, config.data)
    labels = read_pseudo_labels(pseudo_labels) if pseudo_labels else []
    calibration: Sequence[Example] = ()
    if pseudo_labels and config.selection.risk is not None:
        # Calibration has decided when they were labelled; the file has its word, and no calibration examples.
        kept = _selected_in(pseudo_labels)
        trained, calibration = split_calibration(labelled, config.selection.risk.calibration_share)
        labelled = list(trained)
    else:
        kept = frozenset(select_labels(labels, config).kept)
    index = index_over(embedder_of(config), labelled) if config.training.neighbours_in_prompt else None
    chosen = [label for label in labels if label.query.id in kept]
    rows = training_rows(labelled, chosen, task, config.training, config.seed, index=index)
    kind: Kind = "evolve" if pseudo_labels else "warm"
    if config.training.adapt_epochs and parent is None and not labels:
        raise ConfigError(
            "training.adapt_epochs: there is no query to read; give --pseudo-labels, or a --parent, or run `semievol "
            "evolve`"
        )
    with locked_directory(out):
        adapters = out / "adapters"
        start = parent or await adapt(
            config,
            task,
            trainer,
            [label.query for label in labels],
            held_out=calibration,
            at=out / "adapted",
            adapters=adapters,
            watcher=watcher,
        )
        job = make_training_job(config, rows, number=0, kind=kind, parent=start)
        write_snapshot(out / "snapshot", job, rows)
        path = await trainer(out / "snapshot", out / "work", adapters, watcher("train (%)", 100))
        left_out = left_out_of_training(path)
    return {
        "adapter": path.name,
        "path": str(path),
        "rows": len(rows),
        "training": job.numbers(),
        "left_out": left_out,
        "pseudo_labels": len(chosen),
    }


def _selected_in(path: Path) -> frozenset[str]:
    """The ids of the pseudo-labels that the file itself says were selected."""
    return frozenset(str(row["id"]) for _, row in rows_of(path) if isinstance(row, dict) and row.get("selected"))
