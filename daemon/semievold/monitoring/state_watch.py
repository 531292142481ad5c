"""Reads what the gauges of the state show: on a timer, and in the process that leads alone.

Owns the timer. A state that is away leaves the figures as they are; `semievol_state_read_timestamp_seconds` tells.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable

from semievol.errors import SemiEvolError
from semievol.training.progress import read_progress
from semievold.drift.figures import read_figures
from semievold.monitoring.figures import Figures, FigureStore
from semievold.monitoring.state_metrics import WINDOW, StateFigures, StateMetrics
from semievold.retry import set_within
from semievold.round_states import RoundState
from semievold.rounds.places import RoundPlace
from semievold.store.stores import Stores

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How soon a new leader shows the state."""


class StateWatch:
    """The timer of one process that may lead.

    Args:
        leads: whether this process leads now.
        interval_s: between two readings.
        monotonic: seconds by a clock that nobody sets.
        drift: whether drift is watched.
    """

    def __init__(
        self,
        shown: StateMetrics,
        stores: Stores,
        workload: str,
        place: RoundPlace,
        leads: Callable[[], bool],
        interval_s: float,
        monotonic: Callable[[], float],
        *,
        drift: bool = True,
    ) -> None:
        self._shown = shown
        self._stores = stores
        self._figures = FigureStore(stores.database, workload)
        self._place = place
        self._leads = leads
        self._interval_s = interval_s
        self._monotonic = monotonic
        self._drift = drift

    async def run(self, stop: asyncio.Event) -> None:
        """Read every `interval_s` while this process leads, until stopped."""
        due = 0.0
        while not await set_within(stop, min(LOOK_S, self._interval_s)):
            if not self._leads():
                self._shown.show(None)
                due = 0.0
            elif self._monotonic() >= due:
                due = self._monotonic() + self._interval_s
                await self.look()

    async def look(self) -> None:
        """Read once, and show it."""
        try:
            self._shown.show(await asyncio.to_thread(self._read))
        except (SemiEvolError, OSError) as error:  # a figure that cannot be read is no reason to stop the work
            log.warning("metrics of the state are as they were: %s", error)

    def _read(self) -> StateFigures:
        stored = self._figures.read()
        disk = shutil.disk_usage(self._place.adapters if self._place.adapters.exists() else self._place.adapters.parent)
        return StateFigures(
            stored=stored,
            window=self._stores.pseudo_labels.window(WINDOW),
            training=self._training(stored),
            frozen=self._stores.freezes.get() is not None,
            review_open={**self._stores.reviews.waiting(), "contradiction": self._stores.contradictions.open()},
            review_labels=self._stores.reviews.labelled(),
            disk_free=disk.free,
            disk_size=disk.total,
            read_at=self._stores.database.now(),
            drift=read_figures(self._stores, watched=self._drift),
        )

    def _training(self, stored: Figures) -> dict[str, object] | None:
        if stored.open_round is None or stored.open_state is not RoundState.TRAINING:
            return None
        return read_progress(self._place.work(stored.open_round))
