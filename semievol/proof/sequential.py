"""The gate of the service: has the candidate proved itself on the labels so far, and what does it still need?

Owns the three-valued decision over all labels that both models answered; pure, and a function of the pairs alone, so
that it says the same after a restart. Looking again after every label is free (semievol.proof.evidence). Invariant:
`promote` needs the evidence of a gain, and that nothing holds it back: no category, no answers that do not parse, no
anchor against which the candidate is shown worse. What is missing, contradictory or too little never promotes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from semievol.config.method import SequentialGateConfig
from semievol.proof.evidence import (
    Pairs,
    labels_needed,
    log_better,
    log_gain_above,
    log_gain_below,
    log_mean_above,
    upper_bound,
    wins_needed,
)
from semievol.proof.gate import Decision, SliceResult, pairing_problem, slices_of
from semievol.types import Outcome

PARSING_LEVEL = 0.95
"""Level of the incumbent's bound on answers that do not parse."""
_MOST = 700.0
"""Of an exponent."""


@dataclass(frozen=True, slots=True)
class AnchorResult:
    """The candidate beside the version that it must not be shown worse than. `worse`: the evidence that it is."""

    adapter: str
    count: int
    wins: int
    losses: int
    worse: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision with its evidence.

    is_open: more labels may change it; never after `promote` and `reject`.
    held_back: a gain is shown, and what speaks against promoting nevertheless; at the end of all patience, a reject.
    better, worse, futile: evidence (e-values) of a gain, of a loss, of a gain below `least_gain`.
    p_better, p_worse: their inverses, at most 1: probabilities that hold at every look.
    labels_needed: see semievol.proof.evidence.
    Accuracies are over the pairs that were not chosen, 0 when there are none; `unparsed` counts answers of those that
    do not parse.
    """

    decision: Decision
    reason: str
    is_open: bool = False
    held_back: bool = False
    count: int = 0
    wins: int = 0
    losses: int = 0
    better: float = 1.0
    worse: float = 1.0
    futile: float = 1.0
    p_better: float = 1.0
    p_worse: float = 1.0
    labels_needed: int | None = None
    incumbent_accuracy: float = 0.0
    candidate_accuracy: float = 0.0
    incumbent_unparsed: int = 0
    candidate_unparsed: int = 0
    slices: tuple[SliceResult, ...] = ()
    anchor: AnchorResult | None = None


def prove(
    incumbent: Sequence[Outcome],
    candidate: Sequence[Outcome],
    config: SequentialGateConfig,
    anchor: tuple[str, Sequence[Outcome]] | None = None,
    *,
    proved: bool = False,
    chosen: Collection[str] = (),
) -> Verdict:
    """What the answers of two models to the same labelled queries prove.

    `anchor`: name and answers of a third version, to as many of the queries as are known. `proved`: the evidence of a
    gain was enough at an earlier look, on answers that all still stand; what comes later takes that back only where it
    speaks against promoting, for the level holds at every look (Ville). `chosen`: ids of labels that were drawn among
    those queries alone to which the two models answer differently: of these they say who is right more often, and
    nothing of how often answers are right, parse, or are right in a category.
    """
    problem = pairing_problem(incumbent, candidate, config)
    if problem is not None:
        return Verdict("inconclusive", problem, is_open=True)
    theirs = {outcome.id: outcome for outcome in candidate}
    pairs = [(outcome, theirs[outcome.id]) for outcome in incumbent]
    counted = _counted(pairs)
    drawn = [pair for pair in pairs if pair[0].id not in chosen]
    beside = None if anchor is None else _beside(anchor[0], anchor[1], theirs, counted.count)
    better = _log_gain(counted, config)
    worse = log_better(counted.losses, counted.wins)
    futile = log_gain_below(counted, config.least_gain)
    slices = slices_of(drawn, config)
    enough = math.log(1 / config.alpha)
    shown_worse = _shown_worse(drawn, counted, slices, beside, config)
    held_back = _held_back(drawn, slices, config)
    needed = labels_needed(counted, config.alpha) if config.margin == 0 else None
    score = f"{counted.wins} wins, {counted.losses} losses, evidence {_e(better):.3g} of {1 / config.alpha:.3g}"
    shown = proved or better >= enough
    decision: Decision = "inconclusive"
    is_open = False
    if shown_worse is not None:
        decision, reason = "reject", shown_worse
    elif shown and held_back is None:
        said = "significantly better" if better >= enough else "significantly better at an earlier look, which stands"
        decision, reason = "promote", f"{said}: {score}"
    elif shown:
        reason, is_open = f"better ({score}), but {held_back}", True
    elif futile >= math.log(1 / config.beta):
        reason = f"no gain of {config.least_gain:.0%} or more: {score} among {counted.count} labels"
    else:
        reason, is_open = f"no significant difference: {score}; {_still_needed(counted, needed, config)}", True
    return Verdict(
        decision=decision,
        reason=reason,
        is_open=is_open,
        held_back=shown_worse is None and shown and held_back is not None,
        count=counted.count,
        wins=counted.wins,
        losses=counted.losses,
        better=_e(better),
        worse=_e(worse),
        futile=_e(futile),
        p_better=min(1.0, 1 / _e(better)),
        p_worse=min(1.0, 1 / _e(worse)),
        labels_needed=needed,
        incumbent_accuracy=sum(old.correct for old, _ in drawn) / max(1, len(drawn)),
        candidate_accuracy=sum(new.correct for _, new in drawn) / max(1, len(drawn)),
        incumbent_unparsed=sum(old.answer is None for old, _ in drawn),
        candidate_unparsed=sum(new.answer is None for _, new in drawn),
        slices=slices,
        anchor=beside,
    )


def _counted(pairs: Sequence[tuple[Outcome, Outcome]]) -> Pairs:
    wins = sum(new.correct and not old.correct for old, new in pairs)
    losses = sum(old.correct and not new.correct for old, new in pairs)
    return Pairs(wins, losses, len(pairs) - wins - losses)


def _log_gain(counted: Pairs, config: SequentialGateConfig) -> float:
    if config.margin == 0:
        return log_better(counted.wins, counted.losses)
    return log_gain_above(counted, config.margin)


def _beside(name: str, outcomes: Sequence[Outcome], candidate: dict[str, Outcome], count: int) -> AnchorResult:
    known = [(outcome, candidate[outcome.id]) for outcome in outcomes if outcome.id in candidate]
    counted = _counted(known)
    assert counted.count <= count
    return AnchorResult(name, counted.count, counted.wins, counted.losses, _e(log_better(counted.losses, counted.wins)))


def _shown_worse(
    pairs: Sequence[tuple[Outcome, Outcome]],
    counted: Pairs,
    slices: Sequence[SliceResult],
    anchor: AnchorResult | None,
    config: SequentialGateConfig,
) -> str | None:
    """In what the candidate is shown worse, by the same evidence and level as a gain; None: in nothing."""
    enough = 1 / config.alpha
    worse = _e(log_better(counted.losses, counted.wins))
    if worse >= enough:
        return (
            f"significantly worse: {counted.wins} wins, {counted.losses} losses, evidence {worse:.3g} of {enough:.3g}"
        )
    for part in _dropped(slices, config):
        of_it = _counted([pair for pair in pairs if pair[0].category == part.category])
        if _e(log_better(of_it.losses, of_it.wins)) >= enough:
            return _drop(part)
    lost = sum(new.answer is None and old.answer is not None for old, new in pairs)
    gained = sum(old.answer is None and new.answer is not None for old, new in pairs)
    if _e(log_better(lost, gained)) >= enough:
        return f"significantly more answers that do not parse: {lost} that the incumbent's do, {gained} the reverse"
    if (surer := _surer_of_wrong_answers(pairs, config)) is not None:
        return surer
    if anchor is not None and anchor.worse >= enough:
        return (
            f"significantly worse than the anchor {anchor.adapter}: {anchor.wins} wins, {anchor.losses} losses, "
            f"evidence {anchor.worse:.3g} of {enough:.3g}"
        )
    return None


def _surer_of_wrong_answers(pairs: Sequence[tuple[Outcome, Outcome]], config: SequentialGateConfig) -> str | None:
    """Calibration by the Brier score of exp(-entropy), the mean probability of a token: confidence against truth."""
    rise = config.max_brier_rise
    if rise is None:
        return None
    scores = [(_brier(old), _brier(new)) for old, new in pairs]
    if _e(log_mean_above([new - old for old, new in scores], rise)) < 1 / config.alpha:
        return None
    before, after = (sum(each) / len(scores) for each in zip(*scores, strict=True))
    return (
        f"surer of wrong answers: the squared error of its confidence (Brier score) is {after:.2f}, the incumbent's "
        f"{before:.2f} (gate.max_brier_rise is {rise:g})"
    )


def _brier(outcome: Outcome) -> float:
    sure = math.exp(-outcome.entropy) if outcome.answer is not None else 0.0
    return (sure - outcome.correct) ** 2


def _held_back(
    pairs: Sequence[tuple[Outcome, Outcome]], slices: Sequence[SliceResult], config: SequentialGateConfig
) -> str | None:
    """What speaks against the candidate, shown or not, so that a gain alone does not promote it."""
    dropped = _dropped(slices, config)
    if dropped:
        return _drop(max(dropped, key=lambda part: part.drop))
    before = sum(old.answer is None for old, _ in pairs)
    after = sum(new.answer is None for _, new in pairs)
    bound = upper_bound(before, len(pairs), PARSING_LEVEL)
    if pairs and after / len(pairs) > bound:
        return f"{after} of {len(pairs)} answers do not parse (bound by the incumbent's {before}: {bound:.1%})"
    return None


def _dropped(slices: Sequence[SliceResult], config: SequentialGateConfig) -> list[SliceResult]:
    return [part for part in slices if part.decides and part.drop > config.max_slice_drop]


def _drop(part: SliceResult) -> str:
    return (
        f"category {part.category!r} drops from {part.incumbent_accuracy:.3f} to {part.candidate_accuracy:.3f} "
        f"({part.count} examples)"
    )


def _still_needed(counted: Pairs, needed: int | None, config: SequentialGateConfig) -> str:
    if needed is not None:
        return f"about {needed} more labels at the present rate of disagreement"
    if counted.differ == 0:
        return f"no pair differs among {counted.count} labels; {next(wins_needed(config.alpha))} wins are needed"
    if config.margin > 0:
        return f"a gain of more than {config.margin:.0%} is needed"
    return "no number of labels proves it at the present rate of disagreement"


def _e(log: float) -> float:
    return math.exp(min(log, _MOST))
