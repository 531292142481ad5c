"""What a round trains on, frozen: chosen once, written once, hashed, and never read from live tables again.

Owns the choice of rows (all examples outside the holdout, the selected pseudo-labels) and the snapshot
directory (job.json, rows.jsonl, manifest.json). Invariant: no holdout example is in any row; the same state and
seed give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from daemon.config import DaemonConfig
from daemon.store.pseudo_labels import PoolRow
from daemon.store.rounds import Membership, Round
from daemon.store.stores import Stores
from semievol.adapter_directory import write_durably
from semievol.propagation import training_rows
from semievol.protocols import ExampleIndex
from semievol.seeds import derive
from semievol.selection import Scored, scored, select
from semievol.task import Task
from semievol.training_job import TrainingJob, write_snapshot
from semievol.types import TrainingRow


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A frozen training set: what to write, and what the round row remembers of it."""

    rows: tuple[TrainingRow, ...]
    members: tuple[Membership, ...]
    job: TrainingJob
    manifest: Mapping[str, Any]

    @property
    def summary(self) -> dict[str, Any]:
        """The manifest without its lists of ids: what `rounds show` prints."""
        return {key: value for key, value in self.manifest.items() if not key.endswith("_ids")}


def choose(
    stores: Stores, index: ExampleIndex, task: Task, config: DaemonConfig, round_: Round, parent: Path | None
) -> Snapshot:
    """Decide what the round trains on. Blocking: call it in a thread.

    `parent` is the directory of the adapter to continue from; None trains from the base model.
    """
    examples = sorted(stores.examples.training(), key=lambda example: example.id)
    members: tuple[Membership, ...] = ()
    kept: Sequence[str] = ()
    threshold: float | None = None
    if round_.kind == "evolve":
        pool = stores.pseudo_labels.pool(limit=config.rounds.max_pool)
        rule = config.selection.of_evolve_round(1 + stores.rounds.evolved())
        selection = select(_scored(stores, sorted(pool, key=lambda row: row.id), config), rule)
        kept, threshold = selection.kept, selection.threshold
        members = tuple(
            [Membership(query_id, True, None) for query_id in selection.kept]
            + [Membership(query_id, False, reason) for query_id, reason in selection.rejected.items()]
        )
    pseudo_labels = stores.pseudo_labels.load(list(kept)) if kept else []
    held_out = [example.id for example in stores.examples.holdout()]
    rows = tuple(
        training_rows(examples, pseudo_labels, task, config.training, round_.seed, index=index, holdout=held_out)
    )
    if round_.options.get("shuffle_labels"):
        rows = shuffled(rows, round_.seed)
    fingerprint = [row.messages for row in rows[:: max(1, len(rows) // config.rounds.fingerprint_prompts)]]
    warm = round_.kind == "warm"
    training = config.training
    job = TrainingJob(
        workload=config.workload.name,
        round_number=round_.number,
        kind=round_.kind,
        seed=round_.seed,
        model=config.model,
        training=training,
        learning_rate=(training.warm_learning_rate if warm else None) or training.learning_rate,
        epochs=(training.warm_epochs if warm else None) or training.epochs,
        parent=parent,
        name_prefix=f"{config.workload.name}-{round_.label}",
        fingerprint_prompts=tuple(fingerprint[: config.rounds.fingerprint_prompts]),
    )
    counts = stores.pseudo_labels.counts()
    manifest = {
        "round": round_.number,
        "kind": round_.kind,
        "seed": round_.seed,
        "parent": None if parent is None else parent.name,
        "examples": len(examples),
        "pool": len(members),
        "selected": len(kept),
        "threshold": threshold,
        "labelled_total": counts.total,
        "rows": len(rows),
        "rows_hash": rows_hash(rows),
        "config_hash": config.hash(),
        "config": config.public(),
        "offsets": stores.pseudo_labels.offsets(),
        "shuffle_labels": bool(round_.options.get("shuffle_labels")),
        "example_ids": [example.id for example in examples],
        "selected_ids": list(kept),
    }
    return Snapshot(rows, members, job, manifest)


def _scored(stores: Stores, pool: Sequence[PoolRow], config: DaemonConfig) -> list[Scored]:
    """What selection looks at. By entropy, the pool's rows say it all; other measures are of the stored candidates."""
    if config.selection.by == "entropy":
        return [Scored(row.id, row.answer, row.entropy, row.agreement) for row in pool]
    labels = stores.pseudo_labels.load([row.id for row in pool])
    return [scored(label, config.selection) for label in labels]


def shuffled(rows: Sequence[TrainingRow], seed: int) -> tuple[TrainingRow, ...]:
    """The same rows with their completions dealt out at random: a round made worse on purpose, to try the gate."""
    completions = [row.completion for row in rows]
    random.Random(derive(seed, "shuffle-labels")).shuffle(completions)
    return tuple(replace(row, completion=c) for row, c in zip(rows, completions, strict=True))


def rows_hash(rows: Sequence[TrainingRow]) -> str:
    """SHA-256 over the rows in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(asdict(row), sort_keys=True).encode())
    return digest.hexdigest()


def write(snapshot: Snapshot, directory: Path) -> None:
    """Write the snapshot under a temporary name, sync it, and rename; an earlier attempt is replaced."""
    temporary = directory.with_name(directory.name + ".partial")
    for leftover in (temporary, directory):
        if leftover.exists():
            shutil.rmtree(leftover)
    temporary.mkdir(parents=True)
    write_snapshot(temporary, snapshot.job, snapshot.rows)
    write_durably(temporary / "manifest.json", json.dumps(snapshot.manifest, indent=1, sort_keys=True))
    os.rename(temporary, directory)
