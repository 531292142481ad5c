"""What the intakes count; read by the metrics, the status and the idle watch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from semievold.intake.pace import Pace
from semievold.retry import Health
from semievold.store.feedback import Outcome


@dataclass(slots=True)
class RoleCounters:
    """What a role that reads a topic did since its process started."""

    received: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)  # by reason
    lag: int = 0  # records not committed, as last measured
    health: Health = field(default_factory=Health)

    @property
    def retries(self) -> int:
        """Attempts that a component did not answer."""
        return self.health.retries

    @property
    def degraded(self) -> str | None:
        """What does not answer; None: everything does."""
        return self.health.degraded


@dataclass(slots=True)
class IntakeCounters(RoleCounters):
    """Of the queries topic."""

    labelled: int = 0
    published: int = 0
    duplicates: int = 0  # redeliveries of queries that are labelled already
    in_flight: int = 0  # records read and not finished
    pace: Pace = field(default_factory=Pace)


@dataclass(slots=True)
class LabelsCounters(RoleCounters):
    """Of the labels topic."""

    added: int = 0  # new or changed examples
    retracted: int = 0
    indexed: int = 0
    joined_right: int = 0  # labels of queries that were answered as the label says
    joined_wrong: int = 0
    feedback: Counter[Outcome] = field(default_factory=Counter)  # clients' answers; none of them in the two above
    reviewed: int = 0  # contradictions that went to the review topic
    review_labels: int = 0  # labels that closed an item of the review
    feedback_right: int = 0
    feedback_wrong: int = 0
