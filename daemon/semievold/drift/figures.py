"""What is known of drift at one moment, in a few numbers: for status, API and metrics.

Reads the state alone, of the whole workload and of the adapter that serves; categories by the one nearest its alarm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from semievold.config.drift import DriftKind
from semievold.drift.detectors import BASE
from semievold.store.stores import Stores

KINDS: tuple[DriftKind, ...] = get_args(DriftKind)
Phase = Literal["reference", "watching", "alarmed"]


@dataclass(frozen=True, slots=True)
class KindFigures:
    """Of one kind: queries (labels) so far, and how near the alarm it is.

    statistic, alarm_line: None before there is a reference. category: the one nearest its alarm; None: there is none.
    """

    phase: Phase
    seen: int
    statistic: float | None
    alarm_line: float | None
    category: str | None
    category_statistic: float | None


@dataclass(frozen=True, slots=True)
class DriftFigures:
    """All kinds of which something is known; `inputs_quiet`: they are watched, and nothing was found."""

    kinds: Mapping[DriftKind, KindFigures]
    accuracy: Mapping[str, Any]
    events: Mapping[str, int]
    is_open: bool

    @property
    def inputs_quiet(self) -> bool:
        phases = [self.kinds[kind].phase for kind in ("input", "topics") if kind in self.kinds]
        return not self.is_open and bool(phases) and all(phase == "watching" for phase in phases)


NOTHING = DriftFigures({}, {}, {}, False)


def read_figures(stores: Stores, *, watched: bool = True) -> DriftFigures:
    """Blocking; some short statements. `watched` False: drift is switched off, and what was found while it was on waits
    for nobody; how often there was an event is still known.
    """
    drift = stores.drift
    if not watched:
        return DriftFigures({}, {}, drift.counts(), False)
    serving = stores.alias.get().adapter or BASE
    by_kind: dict[str, dict[str, dict[str, Any]]] = {}
    for name, state in drift.detectors().items():
        kind, adapter, category = name.split("|", 2)
        if adapter in ("", serving):
            by_kind.setdefault(kind, {})[category] = state
    kinds: dict[DriftKind, KindFigures] = {
        kind: _figures(by_kind[kind]) for kind in KINDS if "" in by_kind.get(kind, {})
    }
    return DriftFigures(kinds, drift.summary(), drift.counts(), drift.open_event() is not None)


def _figures(states: Mapping[str, Mapping[str, Any]]) -> KindFigures:
    whole = states[""]
    parts = {category: state for category, state in states.items() if category and _phase(state) != "reference"}
    nearest = max(parts, key=lambda category: (_statistic(parts[category]), category), default=None)
    phase = _phase(whole)
    return KindFigures(
        phase,
        whole["seen"],
        None if phase == "reference" else _statistic(whole),
        whole["line"],
        nearest,
        None if nearest is None else _statistic(parts[nearest]),
    )


def _phase(state: Mapping[str, Any]) -> Phase:
    if state["alarmed"]:
        return "alarmed"
    return "watching" if state["referred"] else "reference"


def _statistic(state: Mapping[str, Any]) -> float:
    return float(np.mean(state["evidence"]))  # of an earlier form of detector it is a list
