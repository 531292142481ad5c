"""What answered queries say of drift: read from the state, told to the detectors, written by nobody.

Owns the reading, and the process of its own in which it is done where many queries come: beside an intake that is busy
in the same process both would wait for one interpreter. Invariant: here or apart, the same queries weigh the same; what
is weighed is kept by whoever asked (`semievold.drift.watch`), or is weighed again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from semievold.config.drift import DriftSettings
from semievold.drift.arrival import WAITING, asked_before, state_of, waiting_in
from semievold.drift.detectors import Detectors, Raised
from semievold.drift.evidence import evidence_of
from semievold.store.database import Database
from semievold.store.drift.events import Alarm, Answered, DriftStore, Position
from semievold.store.pseudo_labels import PseudoLabelStore

log = logging.getLogger(__name__)

AHEAD = 500
"""Rows behind these that are read as well, to see what was asked before them and answered later."""


class NotApartError(Exception):
    """There is no process to weigh in: it does not begin, or has ended."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be weighed: at most `most` answers behind `position`, made before `to`, by the serving adapter."""

    position: Position
    to: float
    most: int
    serving: str | None


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a batch said.

    read: how many answers there were; last: when the last of them was made, and its query; None: there was none.
    told: whether there was anything to weigh, of those or of answers that had waited.
    changed: {detector: its state}; alarms: what they raised, the earlier first.
    """

    read: int
    last: tuple[float, str] | None
    told: bool
    changed: Mapping[str, Mapping[str, Any]]
    alarms: Sequence[Alarm]


@dataclass(frozen=True, slots=True)
class Weigher:
    """Weighs in this process.

    labels: how many labels the task has; None: answers are no closed set.
    """

    settings: DriftSettings
    labels: int | None
    seed: int
    drift: DriftStore
    pseudo_labels: PseudoLabelStore

    def detectors(self, position: Position, states: Mapping[str, Any]) -> Detectors:
        """All detectors, from these states on."""
        return Detectors(self.settings, self.labels, self.seed, position.arming, states)

    def alarm_of(self, raised: Raised, last: Answered, wrong: Sequence[str] = ()) -> Alarm:
        """With its evidence; see `evidence_of`."""
        action = getattr(self.settings.action, raised.kind)
        evidence = evidence_of(raised, last, (self.drift, self.pseudo_labels), wrong)
        return Alarm(raised.kind, raised.category, raised.adapter, action, evidence)

    def weigh(self, batch: Batch) -> Weighed:
        """Blocking.

        Raises:
            TransientError: the state is busy or away.
        """
        drift, position = self.drift, batch.position
        states = drift.detectors()
        settled, waited = drift.answered(position, batch.most, batch.to), waiting_in(states)
        last = (settled[-1].created_at, settled[-1].query_id) if settled else None
        behind = position if last is None else position._replace(query_at=last[0], query_id=last[1])
        ahead = drift.asked(behind, AHEAD) if settled or waited else []
        rows, waiting = asked_before([*waited, *settled], ahead)
        known = drift.examples({row.neighbours[0][0] for row in rows if row.neighbours})
        detectors = self.detectors(position, states)
        told = detectors.tell([row for row in rows if row.adapter == batch.serving], known)
        alarms = [self.alarm_of(raised, row) for row, raised in told]
        changed = detectors.changed() | ({} if waiting == waited else {WAITING: state_of(waiting)})
        return Weighed(len(settled), last, bool(rows or settled), changed, alarms)


class WeigherApart:
    """Weighs in a process of its own, which begins with the first batch and ends with this one, however it ends."""

    def __init__(self, url: str, workload: str, settings: DriftSettings, labels: int | None, seed: int) -> None:
        """`url`: of the state."""
        self._arguments = (url, workload, settings, labels, seed)
        self._pool: ProcessPoolExecutor | None = None

    def weigh(self, batch: Batch) -> Weighed:
        """Blocking.

        Raises:
            TransientError: the state is busy or away.
            NotApartError: there is no process; the next batch begins another.
        """
        try:
            if (pool := self._pool) is None:
                spawn = multiprocessing.get_context("spawn")  # this process has threads, which a fork would not have
                pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin, initargs=self._arguments)
                self._pool = pool
            weighing = pool.submit(_weigh, batch)
        except (ImportError, OSError, RuntimeError) as failure:  # no semaphores, no room for a process, or it has ended
            self.close()
            raise NotApartError(f"no process can be begun to weigh drift in: {failure}") from failure
        try:
            return weighing.result()
        except (BrokenProcessPool, CancelledError) as ended:
            self.close()
            raise NotApartError(f"the process that weighs drift has ended: {ended}") from ended

    def close(self) -> None:
        """End the process, after the batch that it is at."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


# --- in the process of its own --------------------------------------------------------------------------------------

_here: list[Weigher] = []


def _begin(url: str, workload: str, settings: DriftSettings, labels: int | None, seed: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: who started this process says when it ends
    threading.Thread(target=_end_with_parent, daemon=True).start()
    database = Database(url)
    _here.append(Weigher(settings, labels, seed, DriftStore(database, workload), PseudoLabelStore(database, workload)))


def _end_with_parent() -> None:
    """One that is killed says nothing, and its pipes are open here too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _weigh(batch: Batch) -> Weighed:
    return _here[0].weigh(batch)
