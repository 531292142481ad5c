"""The gate of the service: the method's sequential rule, and how long a round waits for its proof."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from semievol.config.method import SequentialGateConfig


class GateSettings(SequentialGateConfig):
    """When a candidate is promoted, and how long it may take to prove itself."""

    late_labels: Literal["held_out", "all"] = "held_out"
    """Which labels that arrive after a round's snapshot count: those that are held out, or all whose question neither
    model was taught (the next round learns from them). all: only where labels come in no chosen order, as delayed truth
    does; what somebody labels because the model is unsure of it proves nothing about the rest."""
    patience_s: float = Field(default=300.0, ge=0)
    """How long a round whose proof is not complete is held open for labels that arrive, seconds; no other round starts
    meanwhile. It ends earlier once labels decide, or show that nothing worth waiting for is gained. Where labels come
    from people, hours or days; 0: decide at once on the labels that there are."""
