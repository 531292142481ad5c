"""Can this machine and this configuration work? Tries each part in turn and says what is missing and the fix."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from daemon.config import DaemonConfig
from daemon.config_fronts import ServerConfig
from semievol.errors import SemiEvolError

MIN_FREE_BYTES = 5 * 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One part, whether it can work, and what was found or is to be done."""

    part: str
    ok: bool
    detail: str

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


def examine(config: DaemonConfig) -> list[Finding]:
    """All findings, in the order in which a start would meet the problems."""
    checks: list[tuple[str, Callable[[DaemonConfig], str]]] = [
        ("packages", _packages),
        ("artifacts", _artifacts),
        ("state", _state),
        ("stream", _stream),
        ("model", _model),
        ("embedding", _embedding),
        ("api", lambda c: _port(c.api, "api")),
        ("gateway", lambda c: _port(c.gateway, "gateway")),
    ]
    findings = []
    for part, check in checks:
        try:
            findings.append(Finding(part, True, check(config)))
        except (SemiEvolError, OSError) as problem:
            findings.append(Finding(part, False, str(problem)))
    return findings


def _packages(_config: DaemonConfig) -> str:
    missing = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise SemiEvolError(f"{', '.join(missing)} missing: install semievol[local]")
    return "torch, transformers and peft are installed"


def _artifacts(config: DaemonConfig) -> str:
    directory = config.artifacts.directory.resolve()
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise SemiEvolError(f"artifacts.directory: {existing} is not writable")
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        raise SemiEvolError(f"artifacts.directory: {free / 2**30:.1f} GiB free on {existing}; make room")
    return f"{directory}, {free / 2**30:.0f} GiB free"


def _state(config: DaemonConfig) -> str:
    from daemon.store.database import Database

    database = Database(config.store_url)
    try:
        database.migrate()
    finally:
        database.close()
    return database.description


def _stream(config: DaemonConfig) -> str:
    if config.stream.kind == "local":
        return "topics in the state's SQLite file"
    from daemon.streams.kafka import KafkaStream

    missing = KafkaStream(config.stream).topics.missing()
    answered = f"Kafka answers at {', '.join(config.stream.kafka.bootstrap_servers)}"
    return f"{answered}; to be created: {', '.join(missing)}" if missing else f"{answered}; all topics exist"


def _model(config: DaemonConfig) -> str:
    if not Path(config.model.name).exists():
        return f"{config.model.name} is not a directory; it will be taken from the hub at the first start"
    if not (Path(config.model.name) / "config.json").exists():
        raise SemiEvolError(
            f"model.name: {config.model.name} holds no config.json; give a transformers model directory"
        )
    return config.model.name


def _embedding(config: DaemonConfig) -> str:
    from semievol.embedding import build_embedder

    embedder = build_embedder(config.embedding)
    return f"{embedder.name}, {embedder.dimensions} dimensions"


def _port(server: ServerConfig, name: str) -> str:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            raise SemiEvolError(
                f"{name}.port: {server.host}:{server.port} cannot be taken ({error.strerror}); is a daemon running?"
            ) from error
    return f"{server.host}:{server.port} is free"
