"""What is watched for drift, how often it may be wrong, and what follows an alarm."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from semievol.config.section import Section

DriftKind = Literal["input", "topics", "confidence", "answers", "accuracy"]
Action = Literal["tell", "hold", "trigger"]


class DriftActions(Section):
    """What an alarm does beside being told. hold: until the next reference a candidate that is proved also waits for a
    person's word. trigger: an evolve round starts, once an event.
    """

    input: Action = "tell"
    """Queries are less like the examples than they were."""
    topics: Action = "tell"
    """The examples that queries are nearest to come in another mix."""
    confidence: Action = "tell"
    """The serving adapter is less sure of its answers."""
    answers: Action = "tell"
    """Its answers come in another mix."""
    accuracy: Action = "tell"
    """By labels that come later, fewer of its answers are right."""


class DriftSettings(Section):
    """Whether traffic and answers are still what they were; looked at by the leader, off the path of queries."""

    enabled: bool = True
    """false: nothing is looked at."""
    false_alarm_every: int = Field(default=100_000, ge=100, le=2_000_000)
    """Where nothing changes each kind raises one false alarm in this many queries on average, or fewer. More find a
    drift later; beyond 2,000,000 the tests of topics and answers, which draw their null, could never be as sure."""
    reference: int = Field(default=500, ge=50)
    """After a start, a new version (confidence, answers, accuracy) or `semievol drift rearm` so many queries are the
    reference; nothing is watched meanwhile. The more, the smaller the drift that is found."""
    reference_labels: int = Field(default=100, ge=20)
    """The same for accuracy, in labels of queries that were answered earlier; it grows while nothing is found."""
    categories: bool = True
    """Input, confidence and accuracy are watched by category too, where examples have one (30 at most). Workload and
    categories then have half of the false alarms each."""
    look_s: float = Field(default=5.0, gt=0)
    """How often the leader looks, seconds."""
    settled_s: float = Field(default=60.0, gt=0)
    """Queries and labels are looked at so long after they came, seconds: by the clocks of several machines, which may
    differ by so much, they become visible in another order. Where all of it is one machine a few seconds will do.
    Meanwhile those that were asked before them are answered, which are weighed before them."""
    action: DriftActions = DriftActions()
