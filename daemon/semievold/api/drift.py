"""Drift as operators see it: what is watched, how near its alarm line, the events, and accuracy with its validity.

Reads the state; `rearm` alone writes. The same for command line, API and metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from semievold.config.daemon import DaemonConfig
from semievold.drift.figures import read_figures
from semievold.store.drift.events import MAX_REASON, DriftEvent
from semievold.store.stores import Stores

__all__ = ["MAX_REASON", "detail", "events", "overview", "rearm", "summary"]


def summary(config: DaemonConfig, stores: Stores) -> dict[str, Any] | None:
    """What `status` says; None: drift is not watched."""
    if not config.drift.enabled:
        return None
    found, figures = stores.drift.open_event(), read_figures(stores)
    return {
        "event": None if found is None else _line(found),
        "watched": {kind: each.phase for kind, each in figures.kinds.items()},
        "accuracy": accuracy(figures.accuracy, valid=figures.inputs_quiet),
    }


def overview(config: DaemonConfig, stores: Stores) -> dict[str, Any]:
    """Every kind with its evidence and alarm line, accuracy, and the events, newest first."""
    figures = read_figures(stores, watched=config.drift.enabled)
    return {
        "enabled": config.drift.enabled,
        "kinds": {kind: asdict(each) for kind, each in figures.kinds.items()},
        "accuracy": accuracy(figures.accuracy, valid=figures.inputs_quiet),
        "events": events(stores),
    }


def events(stores: Stores) -> list[dict[str, Any]]:
    """One line each, newest first."""
    return [_line(each) for each in stores.drift.events()]


def detail(stores: Stores, number: int) -> dict[str, Any]:
    """One event with its evidence.

    Raises:
        StateConflict: there is none of that number.
    """
    return asdict(stores.drift.event(number))


def rearm(stores: Stores, reason: str) -> dict[str, Any]:
    """From now on what comes is the reference."""
    closed = stores.drift.rearm(reason)
    return {"rearmed": True, "closed": None if closed is None else closed.number}


def accuracy(found: Mapping[str, Any], *, valid: bool) -> dict[str, Any] | None:
    """With labels, and without them: that holds while inputs are quiet only. None: nothing is known."""
    if not found or (found["by_labels"] is None and found["without_labels"] is None):
        return None
    said = "valid while inputs are quiet" if valid else "not valid: inputs have drifted, or are not watched yet"
    return {**found, "without_labels_is": said}


def _line(event: DriftEvent) -> dict[str, Any]:
    return {
        "number": event.number,
        "kind": event.kind,
        "category": event.category,
        "at": event.at,
        "actions": list(event.actions),
        "also": sorted({each["kind"] for each in event.also} - {event.kind}),
        "closed_at": event.closed_at,
        "closed_by": event.closed_by,
        "said": event.evidence.get("said"),
    }
