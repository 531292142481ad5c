"""Where the two intakes stand in their topics, and how an operator moves them.

Owns the names of the consumer groups and the meaning of `--to`. Does not own the moving itself (semievold.streams).
Invariant: a group is moved only while none of its members is active; redelivered queries are then recognised.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import datetime
from typing import Any

from semievol.errors import ConfigError, SemiEvolError
from semievol.examples.json_values import MAX_INTEGER
from semievold.config.daemon import DaemonConfig
from semievold.store.stores import Stores
from semievold.streams.opening import open_stream
from semievold.streams.protocol import ResetTarget

READERS = ("intake", "labels")
MAX_DIGITS = 19
"""Of an offset, which has 64 bits."""


def group_of(workload: str, role: str) -> str:
    """The consumer group in which the processes of a role share their topic."""
    return f"semievol-{workload}-{role}"


def offsets(config: DaemonConfig, stores: Stores) -> list[dict[str, Any]]:
    """One row for every role and partition."""
    stream = open_stream(config.stream, stores.database)
    rows = []
    for role in READERS:
        topic, group = _place(config, role)
        for each in stream.offsets(topic, group):
            rows.append({"role": role, "topic": topic, "group": group, **each._asdict(), "lag": each.lag})
    return rows


def waiting(config: DaemonConfig, stores: Stores, timeout_s: float = 3.0) -> int | None:
    """Queries that are not committed; None where the stream does not say within `timeout_s`."""
    found: list[int] = []

    def ask() -> None:
        topic, group = _place(config, "intake")
        with suppress(SemiEvolError):
            found.append(sum(each.lag for each in open_stream(config.stream, stores.database).offsets(topic, group)))

    asking = threading.Thread(target=ask, name="queries-waiting", daemon=True)  # a broker that is away takes its time
    asking.start()
    asking.join(timeout_s)
    return found[0] if found else None


def labels_lag(config: DaemonConfig, stores: Stores) -> int:
    """Label records that are not read yet; of the local stream alone, since a broker may take its time to answer."""
    if config.stream.kind != "local":
        return 0
    topic, group = _place(config, "labels")
    return sum(each.lag for each in open_stream(config.stream, stores.database).offsets(topic, group))


def reset(config: DaemonConfig, stores: Stores, role: str, to: str) -> list[dict[str, Any]]:
    """Move the role's group; the rows of its partitions afterwards.

    Raises:
        ConfigError: role or place is unknown.
        StateConflict: a process of the role runs.
    """
    topic, group = _place(config, role)
    target, stream = parse_target(to), open_stream(config.stream, stores.database)
    if role == "intake" and config.stream.kafka.exactly_once:
        # The commit says what was published, and is about to move: write it down.
        passed = {each.partition: each.committed for each in stream.offsets(topic, group)}
        stores.pseudo_labels.mark_published_below(topic, passed)
    stream.reset(topic, group, target)
    return [row for row in offsets(config, stores) if row["role"] == role]


def parse_target(text: str) -> ResetTarget:
    """What `--to` says: an end, an offset, or a time with its zone (ISO 8601; without a zone it is local time)."""
    if text == "earliest":
        return ResetTarget("earliest")
    if text == "latest":
        return ResetTarget("latest")
    if text.isascii() and text.isdecimal():
        if len(text) > MAX_DIGITS or int(text) > MAX_INTEGER:
            raise ConfigError(f"--to: {text[:MAX_DIGITS]}... is no offset; none is above {MAX_INTEGER}")
        return ResetTarget("offset", int(text))
    try:
        return ResetTarget("timestamp", datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError):  # the local time of the first and the last year may have no UTC
        raise ConfigError(
            f"--to: {text!r} is no place; use earliest, latest, an offset, or a time such as 2026-01-31T12:00:00+00:00"
        ) from None


def _place(config: DaemonConfig, role: str) -> tuple[str, str]:
    if role not in READERS:
        raise ConfigError(f"--role: {role!r} reads no topic; use intake or labels")
    topic = config.stream.queries if role == "intake" else config.stream.labels
    return topic, group_of(config.workload.name, role)
