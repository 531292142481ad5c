"""What `semievol train` does: one adapter from a file of examples and the pseudo-labels that selection keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semievol.commands.retrieval import embedder_of, index_over
from semievol.commands.trainer import left_out_of_training, trainer_of
from semievol.config.method import MethodConfig
from semievol.examples.choices import settled
from semievol.examples.files import read_examples, read_pseudo_labels, rows_of
from semievol.examples.split import split_calibration
from semievol.recipe import Watcher, make_training_job, select_labels
from semievol.runs.directory import Kind, locked_directory
from semievol.tasks.task import Task
from semievol.training.job import write_snapshot


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
    if pseudo_labels and config.selection.risk is not None:
        # Calibration has decided when they were labelled; the file has its word, and no calibration examples.
        kept = _selected_in(pseudo_labels)
        labelled = list(split_calibration(labelled, config.selection.risk.calibration_share)[0])
    else:
        kept = frozenset(select_labels(labels, config).kept)
    index = index_over(embedder_of(config), labelled) if config.training.neighbours_in_prompt else None
    chosen = [label for label in labels if label.query.id in kept]
    rows = training_rows(labelled, chosen, task, config.training, config.seed, index=index)
    kind: Kind = "evolve" if pseudo_labels else "warm"
    job = make_training_job(config, rows, number=0, kind=kind, parent=parent)
    with locked_directory(out):
        write_snapshot(out / "snapshot", job, rows)
        path = await trainer(out / "snapshot", out / "work", out / "adapters", watcher("train (%)", 100))
        left_out = left_out_of_training(path)
    return {
        "adapter": path.name,
        "path": str(path),
        "rows": len(rows),
        "left_out": left_out,
        "pseudo_labels": len(chosen),
    }


def _selected_in(path: Path) -> frozenset[str]:
    """The ids of the pseudo-labels that the file itself says were selected."""
    return frozenset(str(row["id"]) for _, row in rows_of(path) if isinstance(row, dict) and row.get("selected"))
