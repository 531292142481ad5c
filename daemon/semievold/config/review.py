"""Settings of the review queue: what is put before people, and how much of it."""

from __future__ import annotations

from pydantic import Field

from semievol.config.section import Section


class ReviewConfig(Section):
    """Questions that wait for a person's label."""

    max_gate: int = Field(default=50, ge=0)
    """While the gate of a round waits for labels, so many questions wait for it at most, in random order; 0: none.
    Their labels count at that gate alone."""
    max_teach: int = Field(default=50, ge=0)
    """So many wait at most that would teach much: uncertain, frequent, far from every example. 0: none. Their labels
    are trained on, and never held out."""
    keep_days: float = Field(default=7.0, gt=0)
    """What teaches and nobody has labelled after this makes room for others, and may be drawn again."""
    look_at: int = Field(default=2_000, gt=0)
    """Among so many of the newest answered queries the questions are drawn."""
    interval_s: float = Field(default=5.0, gt=0)
    """How often the leader looks whether questions are missing, seconds."""
