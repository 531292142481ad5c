"""What a round is worth to the user: the price of its time, and what is expected of rounds before any was seen."""

from __future__ import annotations

from pydantic import Field

from semievol.config.section import Section


class WorthConfig(Section):
    """For `trigger.kind: worth`. Points are percentage points of accuracy on the held-out labels."""

    points_per_hour: float = Field(default=1.0, gt=0)
    """The price: how many points an hour of labelling again and training must bring, for it to be worth while."""
    prior_labels: int = Field(default=500, gt=0)
    """Before rounds tell, so many newly selected pseudo-labels are expected to bring `prior_points`; and what rounds
    tell counts beside that by how many labels they had: after as many, half."""
    prior_points: float = Field(default=2.0, gt=0)
    """See prior_labels."""
    drift_points_per_day: float = Field(default=0.1, ge=0)
    """What a version is expected to lose a day while the traffic moves on, and a round to win back."""
