"""How often text was kept from becoming control tokens, in this process.

One tally for all engines and trainings of a process, as the log is one: what is counted is looked at by whoever shows
it (the service's metrics, the end of a run on files). Invariant: a count never falls.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Literal

Where = Literal["gateway", "prompt", "training"]
"""A client's request; a prompt of labelling or evaluation; a training row."""
PLACES: tuple[Where, ...] = ("gateway", "prompt", "training")


class Tally:
    """Counts by place; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Where] = Counter()

    def add(self, where: Where, count: int = 1) -> None:
        with self._lock:
            self._counts[where] += count

    def counts(self) -> Mapping[Where, int]:
        """So far, of every place."""
        with self._lock:
            return {where: self._counts[where] for where in PLACES}


NEUTRALISED = Tally()


def asked_by(interactive: bool) -> Where:
    """Whose request it is."""
    return "gateway" if interactive else "prompt"
