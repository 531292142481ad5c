"""When a round starts: a pure function from what is known to what to do, with the reason in words.

Owns no clock and no store; the control loop observes and calls. Invariant: no round starts while one is open, and
no evolve round before the warm round ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from semievold.config.daemon import TriggerConfig
from semievold.round_states import RoundKind


@dataclass(frozen=True, slots=True)
class Observation:
    """What the trigger looks at; ages in seconds."""

    training_examples: int
    holdout_examples: int
    min_holdout: int
    labels_lag: int
    last_label_age_s: float
    warm_ended: bool
    evolve_rounds: int
    new_pseudo_labels: int
    last_round_age_s: float
    last_failure: str | None = None  # why the last round failed; None: it did not


@dataclass(frozen=True, slots=True)
class Start:
    """Start a round of this kind, for this reason."""

    kind: RoundKind
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing yet; `reason` says what is missing, for status and logs."""

    reason: str


def decide(seen: Observation, config: TriggerConfig) -> Start | Wait:
    """The next move, given that no round is open."""
    if seen.last_failure is not None and seen.last_round_age_s < config.retry_failed_s:
        left_s = config.retry_failed_s - seen.last_round_age_s
        return Wait(f"the last round failed ({seen.last_failure}); the next may start in {left_s:.0f} s")
    if not seen.warm_ended:
        return _warm(seen, config)
    if config.max_rounds is not None and seen.evolve_rounds >= config.max_rounds:
        return Wait(f"trigger.max_rounds ({config.max_rounds}) reached")
    if config.new_pseudo_labels is not None and seen.new_pseudo_labels >= config.new_pseudo_labels:
        return Start("evolve", f"{seen.new_pseudo_labels} new pseudo-labels")
    due = config.interval_s is not None and seen.last_round_age_s >= config.interval_s
    if due and seen.new_pseudo_labels >= config.min_new:
        return Start("evolve", f"{seen.last_round_age_s:.0f} s since the last round")
    if config.new_pseudo_labels is None:
        return Wait(f"{seen.new_pseudo_labels} new pseudo-labels; rounds start by interval or by hand")
    return Wait(f"{seen.new_pseudo_labels} of {config.new_pseudo_labels} new pseudo-labels")


def _warm(seen: Observation, config: TriggerConfig) -> Start | Wait:
    if seen.training_examples < config.min_examples:
        return Wait(f"{seen.training_examples} of {config.min_examples} examples for the warm round")
    if seen.holdout_examples < seen.min_holdout:
        return Wait(f"{seen.holdout_examples} of {seen.min_holdout} held-out examples for the gate")
    if seen.labels_lag > 0 or seen.last_label_age_s < config.labels_quiet_s:
        return Wait("labels are still arriving")
    return Start("warm", f"{seen.training_examples} examples")
