"""Is a round worth its cost? Both sides in points of accuracy, from what past rounds have brought and taken; pure.

Owns the estimate. Expected gain: what newly selected labels brought in past rounds (nothing, where the candidate was
not promoted), shrunk to a prior, times the labels that are new; and what the version loses with time. Cost: the hours
that past rounds took from their plan to their adapter, at the user's price. Invariant: rounds that bring nothing make
the next one later, and never free.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from semievold.config.worth import WorthConfig

RECENT = 5
"""Of so many rounds the time is looked at: machines and pools change."""
UNKNOWN_SHARE = 0.5
"""Of new pseudo-labels, so many are expected to be selected before a round tells."""


@dataclass(frozen=True, slots=True)
class PastRound:
    """What a round that was decided tells. gain_points: of the version that it put into service; 0: of none.

    new, selected_share: pseudo-labels that were new to it, and the share of its pool that it selected; None: it is a
    warm round. took_s: from its plan to its adapter, seconds; None: it trained none.
    """

    number: int
    gain_points: float
    new: int | None
    selected_share: float | None
    took_s: float | None


@dataclass(frozen=True, slots=True)
class Worth:
    """Both sides, and what they are made of. took_s None: no round was measured yet, so that none costs anything."""

    gain_points: float
    cost_points: float
    points_per_label: float
    new_selected: float
    took_s: float | None

    @property
    def pays(self) -> bool:
        return self.gain_points >= self.cost_points and self.gain_points > 0

    def rounded(self) -> tuple[float, float]:
        """Both sides to a tenth of a point."""
        return round(self.gain_points, 1), round(self.cost_points, 1)

    def said(self) -> str:
        cost = "not measured yet" if self.took_s is None else f"{self.cost_points:.2f} points ({self.took_s:.0f} s)"
        return (
            f"an expected gain of {self.gain_points:.2f} points ({self.new_selected:.0f} new labels to learn from) "
            f"against a cost of {cost}"
        )


def weigh(past: Sequence[PastRound], new: int, since_s: float, config: WorthConfig) -> Worth:
    """What a round would bring and take now.

    Args:
        past: decided rounds, oldest first.
        new: pseudo-labels that are new since the last of them.
        since_s: since it ended, seconds.
        config: price and prior.
    """
    evolved = [each for each in past if each.new is not None and each.selected_share is not None]
    labels = sum((each.new or 0) * (each.selected_share or 0.0) for each in evolved)
    brought = sum(each.gain_points for each in evolved)
    rate = max(0.0, (config.prior_points + brought) / (config.prior_labels + labels))
    share = evolved[-1].selected_share if evolved else UNKNOWN_SHARE
    new_selected = new * (share or 0.0)
    gain = new_selected * rate + config.drift_points_per_day * since_s / 86_400.0
    times = [each.took_s for each in past if each.took_s is not None and each.new is not None]
    times = times or [each.took_s for each in past if each.took_s is not None]
    took_s = statistics.median(times[-RECENT:]) if times else None
    cost = 0.0 if took_s is None else took_s / 3600.0 * config.points_per_hour
    return Worth(gain, cost, rate, new_selected, took_s)
