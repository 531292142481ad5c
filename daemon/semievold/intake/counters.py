"""What an intake counts; read by the metrics, the status and the idle watch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from semievold.intake.pace import Pace
from semievold.retry import Health


@dataclass(slots=True)
class IntakeCounters:
    """What an intake did since its process started; read by the metrics."""

    received: int = 0
    labelled: int = 0
    published: int = 0
    duplicates: int = 0  # redeliveries of queries that are labelled already
    dead_letters: Counter[str] = field(default_factory=Counter)  # by reason
    in_flight: int = 0  # records read and not finished
    lag: int = 0  # records not committed, as last measured
    pace: Pace = field(default_factory=Pace)
    health: Health = field(default_factory=Health)

    @property
    def retries(self) -> int:
        """Attempts that a component did not answer."""
        return self.health.retries

    @property
    def degraded(self) -> str | None:
        """What does not answer; None: everything does."""
        return self.health.degraded
