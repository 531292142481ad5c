"""The collapse breaker: bounds that a round keeps before it trains; beyond one of them rounds are frozen.

The defaults are wide: they let through whatever a healthy loop does, and stop what no gate sees in time.
"""

from __future__ import annotations

from pydantic import Field

from semievol.config.section import Section


class BreakerConfig(Section):
    """When a round is stopped before its training. None: without that bound."""

    min_count: int = Field(default=50, gt=0)
    """Of fewer pseudo-labels (in the pool, or selected) no share is judged; nor of fewer held-out answers than
    gate.min_holdout."""
    min_answers: float | None = Field(default=0.1, gt=0, le=1)
    """How widely the selected answers spread, beside those of the labelled examples. With exp(H) for the effective
    number of answers it is `(exp(H) - 1) / (exp(H of the examples) - 1)`: 0, one answer to everything; 1, as varied as
    the examples. At 0.1, 2.5 of 16 equally frequent answers are enough, and 96 : 4 of two."""
    min_real_share: float | None = Field(default=0.001, gt=0, lt=1)
    """Of the rows that are trained on, at least this share are labelled examples. 16 examples and the surest half of a
    full pool (trigger.min_examples, rounds.max_pool) have 0.0016."""
    max_depth: int | None = Field(default=50, gt=0)
    """How many self-trainings may lie one on another (1 + the depth of the version that labelled), counted from the
    anchor: with a person's approval it begins anew (`semievol rounds approve`)."""
    max_anchor_disagreement: float | None = Field(default=0.5, gt=0, lt=1)
    """Of the held-out questions that the anchor answers rightly, at most this share may be answered otherwise by the
    version that labels; where the gates so far have asked both."""
    max_duplicates: float | None = Field(default=0.9, gt=0, lt=1)
    """Of the pool's queries, at most this share may ask what another one of the pool asks (each of those counts once,
    so a flood is not learned from, but it leaves little else in the newest rounds.max_pool)."""
