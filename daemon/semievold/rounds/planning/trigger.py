"""When a round starts: a pure function from what is known to what to do, with the reason in words.

Owns no clock and no store; the control loop observes and calls. Invariant: no round starts while one is open, and
no evolve round before the warm round ended.
A serving version that descends from a label which was taken back is a reason of its own, whatever else is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from semievol.backoff import Backoff
from semievold.config.daemon import TriggerConfig
from semievold.round_states import RoundKind
from semievold.rounds.planning.worth import Worth

MAX_RETRY_S = 24 * 3600.0

WaitsFor = Literal[
    "examples",
    "holdout",
    "arriving",
    "failed",
    "cancelled",
    "unclean",
    "pseudo_labels",
    "interval",
    "worth",
    "max_rounds",
]
"""What is missing, as a closed set, so that it can label a metric."""
WAITS_FOR: tuple[str, ...] = get_args(WaitsFor)


@dataclass(frozen=True, slots=True)
class Observation:
    """What the trigger looks at; ages in seconds.

    holdout_examples: those with different questions: copies of one question prove nothing that the first did not.
    failures: how many rounds failed in a row for the reason of the last one, while nothing changed.
    unclean: the label that was taken back and from which the serving version descends; None: there is none.
    clean_rounds: how many rounds have begun since that and ended, and the version serves still.
    drift: the event that asks for a round, since which none has begun; None: none does.
    worth: what a round would bring and take now; None: nobody asks.
    """

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
    last_cancelled: bool = False
    failures: int = 1
    pseudo_labels: int = 0
    unclean: str | None = None
    clean_rounds: int = 0
    drift: str | None = None
    worth: Worth | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Start a round of this kind, for this reason."""

    kind: RoundKind
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing yet; `reason` says what is missing, for status and logs."""

    reason: str
    waits_for: WaitsFor


def decide(seen: Observation, config: TriggerConfig) -> Start | Wait:
    """The next move, given that no round is open."""
    paused = _paused(seen, config)
    if paused is not None:
        return paused
    if seen.unclean is None:
        return _ordinary(seen, config)
    because = f"the serving version descends from the label {seen.unclean[:60]!r}, which was taken back"
    left_s = retry_after_s(seen.clean_rounds, config) - seen.last_round_age_s if seen.clean_rounds else 0.0
    if left_s <= 0:
        return Start("evolve" if seen.pseudo_labels else "warm", because)
    ordinary = _ordinary(seen, config)
    if isinstance(ordinary, Start):
        return ordinary
    often = f"{seen.clean_rounds} rounds since then have not replaced it"
    return Wait(f"{because}; {often}; the next may start in {left_s:.0f} s", "unclean")


def _ordinary(seen: Observation, config: TriggerConfig) -> Start | Wait:
    if not seen.warm_ended:
        return _warm(seen, config)
    if config.max_rounds is not None and seen.evolve_rounds >= config.max_rounds:
        return Wait(f"trigger.max_rounds ({config.max_rounds}) reached", "max_rounds")
    if seen.drift is not None and seen.pseudo_labels:
        return Start("evolve", seen.drift)
    if config.kind == "worth":
        return _worth(seen, config)
    if config.new_pseudo_labels is not None and seen.new_pseudo_labels >= config.new_pseudo_labels:
        return Start("evolve", f"{seen.new_pseudo_labels} new pseudo-labels")
    due = config.interval_s is not None and seen.last_round_age_s >= config.interval_s
    if due and seen.new_pseudo_labels >= config.min_new:
        return Start("evolve", f"{seen.last_round_age_s:.0f} s since the last round")
    if config.new_pseudo_labels is None:
        return Wait(f"{seen.new_pseudo_labels} new pseudo-labels; rounds start by interval or by hand", "interval")
    return Wait(f"{seen.new_pseudo_labels} of {config.new_pseudo_labels} new pseudo-labels", "pseudo_labels")


def _worth(seen: Observation, config: TriggerConfig) -> Start | Wait:
    assert seen.worth is not None
    said = seen.worth.said()
    if seen.new_pseudo_labels < config.min_new:
        few = f"{seen.new_pseudo_labels} of {config.min_new} new pseudo-labels (trigger.min_new)"
        return Wait(f"{few}; {said}", "pseudo_labels")
    if seen.worth.pays:
        return Start("evolve", said)
    return Wait(f"a round that is worth it: {said}", "worth")


def retry_after_s(failures: int, config: TriggerConfig) -> float:
    """How long after a failure the next round may start: twice as long with each that fails for the same reason."""
    return Backoff(config.retry_failed_s, max(MAX_RETRY_S, config.retry_failed_s)).bound_s(failures)


def _paused(seen: Observation, config: TriggerConfig) -> Wait | None:
    """After a round that ended without the gate's word, the same conditions would start the next one at once."""
    left_s = retry_after_s(seen.failures, config) - seen.last_round_age_s
    if seen.last_failure is not None and left_s > 0:
        often = "" if seen.failures == 1 else f" {seen.failures} times in a row for the same reason"
        advice = "" if seen.failures == 1 else ", at once by `semievol rounds start` when that is mended"
        return Wait(
            f"the last round failed{often} ({seen.last_failure}); the next may start in {left_s:.0f} s{advice}",
            "failed",
        )
    left_s = config.retry_failed_s - seen.last_round_age_s
    if seen.last_cancelled and left_s > 0:
        return Wait(
            f"the last round was cancelled; the next may start in {left_s:.0f} s, at once by `semievol rounds start`",
            "cancelled",
        )
    return None


def _warm(seen: Observation, config: TriggerConfig) -> Start | Wait:
    unread = f" ({seen.labels_lag} labels not read yet)" if seen.labels_lag > 0 else ""
    if seen.training_examples < config.min_examples:
        return Wait(
            f"{seen.training_examples} of {config.min_examples} examples for the warm round{unread}", "examples"
        )
    if seen.holdout_examples < seen.min_holdout:
        return Wait(
            f"{seen.holdout_examples} of {seen.min_holdout} held-out examples (with different questions) for the gate"
            f"{unread}",
            "holdout",
        )
    if unread or seen.last_label_age_s < config.labels_quiet_s:
        return Wait(f"labels are still arriving{unread}", "arriving")
    return Start("warm", f"{seen.training_examples} examples")
