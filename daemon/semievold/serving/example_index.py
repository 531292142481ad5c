"""Chooses the example index that the configuration names: a Qdrant server's, or a copy in memory of the state."""

from __future__ import annotations

import logging
from pathlib import Path

from semievol.examples.resident import ResidentExampleIndex
from semievol.protocols import Embedder, ExampleIndex
from semievol.tasks.task import Task
from semievold.config.daemon import DaemonConfig
from semievold.serving.followed_index import FollowedIndex
from semievold.store.stores import Stores
from semievold.store.vectors import ExampleVectors

log = logging.getLogger(__name__)


def open_index(config: DaemonConfig, stores: Stores, task: Task, embedder: Embedder) -> ExampleIndex | FollowedIndex:
    """The server's index, or a copy that is still empty: it is brought up to the state by `FollowedIndex.catch_up`.

    Raises:
        ConfigError: the server refuses the key, or its client is not installed.
        TransientError: the server does not answer.
    """
    if (unused := unused_directory(config)) is not None:
        log.warning("%s %s", unused, UNUSED)
    name, settings = config.workload.name, config.index
    if settings.url is not None:
        from semievol.examples.index import QdrantExampleIndex

        return QdrantExampleIndex(embedder, name, settings.url, settings.api_key)
    return FollowedIndex(
        stores.examples,
        ResidentExampleIndex(embedder, ExampleVectors(stores.database, name, embedder)),
        settings.follow_interval_s,
        lambda example: task.knows(example.answer, example.query),
    )


UNUSED = "holds the embedded Qdrant of an earlier version, is not used any more and may be deleted"


def unused_directory(config: DaemonConfig) -> Path | None:
    """Where an earlier version kept its embedded Qdrant, if that is still there: nothing reads it any more."""
    directory = config.index.path or config.artifacts.directory.resolve() / "index"
    was_qdrant = (directory / "meta.json").is_file() or (directory / "collection").is_dir()
    return directory if was_qdrant else None
