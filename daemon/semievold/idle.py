"""Ends a run that was asked to end by itself: when every record is worked off and nothing is due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from semievol.errors import TransientError
from semievold.intake.labels import LabelsIntake
from semievold.intake.role import Intake
from semievold.retry import set_within
from semievold.rounds.control import Control
from semievold.store.stores import Stores

log = logging.getLogger(__name__)

LOOK_S = 1.0
QUIET_LOOKS = 4


class IdleWatch:
    """Looks every second; four quiet looks in a row are idleness."""

    def __init__(
        self, stores: Stores, intake: Intake, labels: LabelsIntake, control: Control, warm_ended: asyncio.Event
    ) -> None:
        self._stores = stores
        self._intake = intake
        self._labels = labels
        self._control = control
        self._warm_ended = warm_ended

    async def run(self, stop: asyncio.Event, request_stop: Callable[[str], None]) -> None:
        quiet = 0
        while not await set_within(stop, LOOK_S):
            try:
                quiet = quiet + 1 if await self._quiet() else 0
            except TransientError as error:  # what does not answer may hold something to do
                log.warning("idle watch: %s", error)
                quiet = 0
            if quiet == QUIET_LOOKS:
                request_stop(f"idle ({self._control.waiting_for})")
                await stop.wait()

    async def _quiet(self) -> bool:
        if not (self._control.leads and self._control.idle):
            return False
        pending = await asyncio.to_thread(self._stores.requests.pending)
        if pending:
            return False
        if await self._labels.backlog() > 0 or "still arriving" in self._control.waiting_for:
            return False
        held = not self._warm_ended.is_set()  # without enough examples the queries wait, however long
        return held or (await self._intake.backlog() == 0 and self._intake.counters.in_flight == 0)
