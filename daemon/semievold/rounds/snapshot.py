"""What a round trains on, frozen: chosen once, written once, hashed, and never read from live tables again.

Owns the choice of rows (all examples outside the holdout, the selected pseudo-labels) and the snapshot
directory (job.json, rows.jsonl, manifest.json). Invariant: no holdout example is in any row; the same state, seed and
vectors give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from semievol.config.training import MOST_RANK
from semievol.durable_files import publish_directory, sync_tree, write_durably
from semievol.labelling.propagation import training_rows
from semievol.protocols import Embedder, ExampleIndex
from semievol.seeds import derive
from semievol.tasks.task import Task
from semievol.training.fitting import Extent, fitted
from semievol.training.job import TrainingJob, write_snapshot
from semievol.types import PseudoLabel, TrainingRow
from semievold.config.daemon import DaemonConfig
from semievold.errors import FatalError
from semievold.rounds.pool import Judged, judge, known_to, training_examples
from semievold.store.lineage.walk import Role
from semievold.store.rounds import Membership, Round
from semievold.store.stores import Stores

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A frozen training set: what to write, and what the round row remembers of it.

    `taken`: the labelled examples that it was made from, and what for.
    """

    rows: tuple[TrainingRow, ...]
    members: tuple[Membership, ...]
    taken: Mapping[str, Role]
    job: TrainingJob
    manifest: Mapping[str, Any]

    @property
    def summary(self) -> dict[str, Any]:
        """The manifest without its lists of ids: what `rounds show` prints."""
        return {key: value for key, value in self.manifest.items() if not key.endswith("_ids")}


def choose(
    stores: Stores,
    index: ExampleIndex | None,
    embedder: Embedder,
    task: Task,
    config: DaemonConfig,
    round_: Round,
    parent: Path | None,
    refused: Mapping[str, str] | None = None,
    calibration: Sequence[PseudoLabel] = (),
) -> Snapshot:
    """Decide what the round trains on. Blocking: call it in a thread.

    `parent` is the directory of the adapter to continue from; None trains from the base model. `refused` pseudo-labels
    are stale and could not be made again. `calibration`: the answers to the examples that selection is calibrated on.

    Raises:
        FatalError: there is no example to train on.
        TransientError: the endpoint that embeds for the consensus does not answer.
    """
    # First: what is labelled from now on must count as new for the next round, whether or not the pool has it.
    labelled, offsets = stores.pseudo_labels.labelled(), stores.pseudo_labels.offsets()
    pool = judge(stores, embedder, task, config, refused, calibration) if round_.kind == "evolve" else Judged()
    return compose(stores, index, task, config, round_, parent, pool, calibration, labelled, offsets)


def compose(
    stores: Stores,
    index: ExampleIndex | None,
    task: Task,
    config: DaemonConfig,
    round_: Round,
    parent: Path | None,
    pool: Judged,
    calibration: Sequence[PseudoLabel] = (),
    labelled: int = 0,
    offsets: Mapping[str, Mapping[str, int]] | None = None,
) -> Snapshot:
    """What is trained on when the pool has been judged: the examples and what was selected, as rows; see `choose`.

    `labelled`, `offsets`: how many queries were labelled, and up to where the stream was read, when that began.
    """
    # Last: a truth that has arrived meanwhile takes the place of its pseudo-label.
    examples, gone = known_to(task, training_examples(stores, config))
    if not examples:
        raise FatalError("no labelled example is left to train on; add labels, or lower labels.holdout_share")
    held_out = [*stores.examples.holdout(), *stores.examples.calibration()]
    rows = tuple(training_rows(examples, pool.kept, task, config.training, round_.seed, index=index, holdout=held_out))
    if round_.options.get("shuffle_labels"):
        rows = shuffled(rows, round_.seed)
    fingerprint = [row.messages for row in rows[:: max(1, len(rows) // config.rounds.fingerprint_prompts)]]
    training = config.training
    found = fitted(
        training.method,
        round_.kind,
        Extent.of(rows, training.max_tokens, closed=config.task.closed),
        config.model.name,
        parent,
        nodes=training.launcher.nodes,
        most_rank=config.generation.launch_settings.max_lora_rank or MOST_RANK,
    )
    if found.why is not None:
        log.info("%s: %s, for %s", round_.name, found.said(), found.why)
    job = TrainingJob(
        workload=config.workload.name,
        round_number=round_.number,
        kind=round_.kind,
        seed=round_.seed,
        model=config.model,
        training=found.training,
        learning_rate=found.learning_rate,
        epochs=found.epochs,
        parent=parent,
        name_prefix=f"{config.workload.name}-{round_.name}",
        fingerprint_prompts=tuple(fingerprint[: config.rounds.fingerprint_prompts]),
    )
    taken: dict[str, Role] = {example.id: "training" for example in examples}
    if pool.certificate is not None or pool.learned is not None:
        taken |= {label.query.id: "calibration" for label in calibration}
    depth = max((each.depth or 0 for each in pool.members if each.selected), default=0)
    if parent is not None:
        depth = max(depth, stores.lineage.depths().get(parent.name, 0))
    manifest = {
        "round": round_.number,
        "kind": round_.kind,
        "seed": round_.seed,
        "parent": None if parent is None else parent.name,
        "examples": len(examples),
        "examples_left_out": len(gone),
        "pool": len(pool.members),
        "selected": len(pool.kept),
        "threshold": pool.threshold,
        "theta": pool.theta,
        "training": job.numbers(),
        "depth": depth,
        "answers_changed": pool.changed,
        "certificate": None if pool.certificate is None else asdict(pool.certificate),
        "learned": None if pool.learned is None else dict(pool.learned),
        "confidence": None if pool.confidence is None else pool.confidence.to_json(),
        "labelled_total": labelled,
        "rows": len(rows),
        "rows_hash": rows_hash(rows),
        "config_hash": config.hash(),
        "config": config.public(),
        "offsets": offsets or {},
        "shuffle_labels": bool(round_.options.get("shuffle_labels")),
        "left_out_ids": gone,
        "example_ids": [example.id for example in examples],
        "selected_ids": [label.query.id for label in pool.kept],
    }
    return Snapshot(rows, pool.members, taken, job, manifest)


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


def write(
    snapshot: Snapshot, directory: Path, leading: Callable[[], AbstractContextManager[object]] = nullcontext
) -> None:
    """Write the snapshot under a name of its own, sync it, and rename; an earlier attempt is replaced.

    Raises:
        SemiEvolError: what `leading` raises; then what is there stays. Entered around the change of names: a former
            leader that stood still while it wrote replaces nothing of its successor's.
    """
    temporary = directory.with_name(f".{directory.name}.{uuid4().hex}.partial")
    try:
        temporary.mkdir(parents=True)
        write_snapshot(temporary, snapshot.job, snapshot.rows)
        write_durably(temporary / "manifest.json", json.dumps(snapshot.manifest, indent=1, sort_keys=True))
        sync_tree(temporary)
        with leading():
            if directory.exists():
                shutil.rmtree(directory)
            publish_directory(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
