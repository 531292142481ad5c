"""What the first page says: what serves, since when and why; the open round; how it went so far.

Reads state alone. Costs the same whatever the state holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from semievold.api import operations
from semievold.config.daemon import DaemonConfig
from semievold.console import charts
from semievold.console.history import History, Move
from semievold.monitoring.figures import FigureStore
from semievold.round_states import CANCELLABLE, ENDED, MAIN_PATH, RoundState
from semievold.rounds import observing
from semievold.rounds.observing import RoundObserver
from semievold.rounds.places import RoundPlace
from semievold.store.adapters import AdapterVersion
from semievold.store.rounds import Round
from semievold.store.stores import Stores

SPANS: Mapping[str, float | None] = {"1 h": 3_600, "1 d": 86_400, "1 w": 604_800, "30 d": 2_592_000, "all": None}
SPAN = "1 w"
ASIDE = (RoundState.PROVING, RoundState.CANARY)
"""States of the way to a promotion that not every round passes."""
NEWEST = 200
"""Answers that `recent` is about."""


class Now:
    """Looks at one workload."""

    def __init__(self, config: DaemonConfig, stores: Stores, place: RoundPlace) -> None:
        self._config = config
        self._stores = stores
        self._place = place
        self._history = History(stores.database, config.workload.name)
        self._figures = FigureStore(stores.database, config.workload.name)
        self._observer = RoundObserver(config, stores)

    def look(self, span: str) -> dict[str, Any]:
        """All that the page shows. Blocking."""
        stores, moves = self._stores, self._history.moves()
        alias, open_round = stores.alias.get(), stores.rounds.open()
        frozen = stores.freezes.get()
        figures, window = self._figures.read(), stores.pseudo_labels.window(NEWEST)
        return {
            "alias": self._config.workload.served_alias,
            "serving": alias.adapter,
            "previous": alias.previous,
            "may_go_back": alias.promoted or alias.canary is not None,
            "since": self._history.serving_since(),
            "why": self._why(moves, None if alias.adapter is None else stores.adapters.get(alias.adapter)),
            "unclean": stores.retractions.unclean(alias.adapter),
            "anchor": stores.adapters.anchor(),
            "waiting_for": observing.waiting_for(self._config, stores, observer=self._observer),
            "held": observing.held(self._config, stores, self._observer),
            "frozen": frozen,
            "lease": stores.leases.get(),
            "round": None if open_round is None else round_view(self._config, open_round, self._place),
            "canary": None if open_round is None else operations.canary(open_round),
            "figures": figures,
            "recent": window,
            "a_minute": stores.pseudo_labels.count_since(stores.database.now() - 60.0),
            "waiting_feedback": stores.waiting.count(),
            "span": span,
            "spans": list(SPANS),
            "charts": self._charts(span, moves),
            "moves": moves[::-1][:8],
        }

    def _why(self, moves: list[Move], version: AdapterVersion | None) -> dict[str, Any] | None:
        """What moved the alias last, and what proved the version, where a round did."""
        made = None if version is None else self._stores.rounds.get(version.round)
        return {
            "move": moves[-1] if moves else None,
            "round": made,
            "gate": None if made is None else operations.round_summary(made)["gate"],
            "approved_at": None if version is None else version.approved_at,
        }

    def _charts(self, span: str, moves: list[Move]) -> list[charts.Chart]:
        between, measured = self._history.labelled_between(), self._history.measured()
        end = self._stores.database.now()
        known = [at for at in (between and between[0], measured[0].at if measured else None) if at is not None]
        length = SPANS[span]
        begin = min(known, default=end - 60.0)
        start = max(begin - 0.03 * (end - begin), end - length if length is not None else 0.0)
        stretches = self._history.sureness(start, end) if between is not None else []
        return [
            charts.accuracy(measured, moves, start, end),
            charts.entropy(stretches, moves, start, end),
            charts.agreement(stretches, moves, start, end),
        ]


def round_view(config: DaemonConfig, round_: Round, place: RoundPlace) -> dict[str, Any]:
    """A round as pages show it: its row, where it is on its path, what may be done with it, how sure the gate is."""
    summary = operations.round_summary(round_, place)
    gate, evaluation = summary["gate"], round_.evaluation or {}
    needed = 1 / config.gate.alpha
    return {
        **summary,
        "training": summary.get("training"),
        "ended": round_.ended,
        "path": _path(round_),
        "cancellable": round_.state in CANCELLABLE,
        "decidable": round_.state is RoundState.PROVING,
        "approvable": round_.adapter is not None and (not round_.ended or round_.state is RoundState.SETTLED),
        "for_approval": observing.for_approval(round_),
        "evidence_needed": needed,
        "evidence": None if gate is None else charts.evidence(gate["evidence"], needed, evaluation.get("worse", 1.0)),
        "patience_ends": None if gate is None else round_.updated_at + config.gate.patience_s,
    }


def _path(round_: Round) -> list[dict[str, Any]]:
    """The states of the main path, each with whether it is behind, here, or to come; a round that left it ends it."""
    states = list(MAIN_PATH)
    if round_.state in ASIDE:
        states.insert(states.index(RoundState.PROMOTED), round_.state)
    if round_.state not in states:
        return [{"state": round_.state.value, "where": "here", "left": True}]
    here = states.index(round_.state)
    ended = round_.state in ENDED
    return [
        {
            "state": state.value,
            "where": "behind" if n < here or ended else "here" if n == here else "to come",
            "left": False,
        }
        for n, state in enumerate(states)
    ]


def round_page(config: DaemonConfig, stores: Stores, place: RoundPlace, number: int) -> dict[str, Any]:
    """All of one round.

    Raises:
        StateConflict: there is no such round.
    """
    detail = operations.round_detail(stores, number)
    round_ = stores.rounds.get(number)
    assert round_ is not None
    evaluation = detail["evaluation"] or {}
    slices = evaluation.get("slices") or []
    return {
        "round": detail,
        "view": round_view(config, round_, place),
        "evaluation": evaluation,
        "slices": slices,
        "snapshot": detail["snapshot"] or {},
        "certificate": (detail["snapshot"] or {}).get("certificate"),
        "attestation": detail["attestation"] or {},
        "training": detail["training"] or {},
        "events": detail["events"],
        "version": None if round_.adapter is None else _version(stores, place, round_.adapter),
    }


def _version(stores: Stores, place: RoundPlace, name: str) -> dict[str, Any] | None:
    found = stores.adapters.get(name)
    return None if found is None else asdict(found.found_in(place.adapters))
