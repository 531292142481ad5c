"""What decides an answer to a held-out example: as long as it is the same, an answer need not be asked for again.

Owns two hashes, of the settings and of an example. Invariant: whatever could change what a model answers, or whether
that is right, changes a hash; asking once too often costs some seconds, comparing unequal things a wrong promotion.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from semievol.examples.records import example_to_json
from semievol.types import Example
from semievold.config.daemon import DaemonConfig

_REACH = {
    "replicas",
    "dns",
    "dns_interval_s",
    "base_url",
    "api_key",
    "concurrency",
    "timeout_s",
    "max_batch",
    "threads",
}
_SERVING = {"max_adapters", "adapters_path", "watch_interval_s"}
_STARTING = {"launch_settings": {"port", "environment"}}


def settings_hash(config: DaemonConfig) -> str:
    """16 hex digits over task, model, precision, template and engine, and over what says which answers are the same.

    Blocking: the chat template and the names, sizes and times of a local model's files are part of it.
    """
    generation = config.generation.model_dump(
        mode="json", exclude={**dict.fromkeys(_REACH | _SERVING, True), **_STARTING}
    )
    decisive: dict[str, Any] = {
        "task": config.task.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json"),
        "files": _files(Path(config.model.name)),
        "template": None if config.model.chat_template is None else _content(config.model.chat_template),
        "generation": generation,
        "embedding": config.embedding.model_dump(mode="json", include={"kind", "name", "dimensions"}),
    }
    return hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=8).hexdigest()


def example_hash(example: Example) -> str:
    """32 hex digits over an example's question and right answers; its id, source and metadata decide nothing."""
    row = example_to_json(example)
    decisive = {key: row.get(key) for key in ("question", "options", "messages", "answer", "answers")}
    return hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=16).hexdigest()


def _files(model: Path) -> list[tuple[str, int, float]] | None:
    """Of a model in a directory; None for one of the hub, whose revision is among the settings."""
    if not model.is_dir():
        return None
    return [
        (each.name, each.stat().st_size, each.stat().st_mtime) for each in sorted(model.iterdir()) if each.is_file()
    ]


def _content(path: Path) -> str | None:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() if path.is_file() else None
