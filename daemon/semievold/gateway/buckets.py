"""So much a minute: what is left of it, and how long who wants more has to wait.

Owns the arithmetic; pure. Invariant: over any stretch of time nobody takes more than a full bucket and what came back
meanwhile, plus what was charged afterwards because it could not be known before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MINUTE_S = 60.0


@dataclass(slots=True)
class Bucket:
    """What is left, as of `at`; it comes back evenly, `most` in a minute and never more than that."""

    left: float
    at: float

    def refill(self, most: float, now: float) -> None:
        self.left = min(most, self.left + max(0.0, now - self.at) * most / MINUTE_S)
        self.at = max(self.at, now)

    def wait(self, most: float, now: float, count: float = 1) -> int:
        """Whole seconds until there are `count`, rounded up; 0: they are there."""
        self.refill(most, now)
        lacking = count - self.left
        return 0 if lacking <= 0 else max(1, math.ceil(lacking * MINUTE_S / most))

    def take(self, most: float, now: float, count: float = 1) -> int:
        """As `wait`; where it is 0, they are taken."""
        wait_s = self.wait(most, now, count)
        if wait_s == 0:
            self.left -= count
        return wait_s

    def give(self, most: float, count: float) -> None:
        """Put back what was taken and not used; negative: what was used beyond it."""
        self.left = min(most, self.left + count)

    def full_in(self, most: float) -> int:
        """Whole seconds until it is full, as of the last look."""
        return math.ceil((most - self.left) * MINUTE_S / most)
