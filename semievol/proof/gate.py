"""The gate of a run on files: has the candidate proved itself against the incumbent on the holdout, in one look?

Owns the three-valued decision by McNemar's exact test; pure. The service, which looks again, has a rule of its own
(semievol.proof.sequential). Invariant: `promote` needs a complete, paired and large enough comparison and a significant
gain; whatever is missing or contradictory gives `inconclusive`, which never promotes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

from semievol.config.method import GateConfig
from semievol.types import Outcome

Decision = Literal["promote", "reject", "inconclusive"]


@dataclass(frozen=True, slots=True)
class SliceResult:
    """Accuracy of both models on one category. `decides`: large enough for its drop to matter."""

    category: str
    count: int
    incumbent_accuracy: float
    candidate_accuracy: float
    decides: bool

    @property
    def drop(self) -> float:
        """Accuracy lost by the candidate; negative when it gained."""
        return self.incumbent_accuracy - self.candidate_accuracy


@dataclass(frozen=True, slots=True)
class GateResult:
    """The decision with its evidence.

    wins: examples that only the candidate answers rightly; losses: only the incumbent.
    p_better, p_worse: exact one-sided McNemar probabilities of so many wins (losses) or more, were both equally good.
    Accuracies are over the `count` paired examples, 0 when nothing could be paired.
    """

    decision: Decision
    reason: str
    count: int = 0
    wins: int = 0
    losses: int = 0
    p_better: float = 1.0
    p_worse: float = 1.0
    incumbent_accuracy: float = 0.0
    candidate_accuracy: float = 0.0
    slices: tuple[SliceResult, ...] = ()


def binomial_tail(successes: int, trials: int) -> float:
    """P(X >= successes) for X ~ Binomial(trials, 1/2), exactly (integers until the last division)."""
    ways = comb(trials, successes)
    total = 0
    for count in range(successes, trials + 1):
        total += ways
        ways = ways * (trials - count) // (count + 1)
    return total / (1 << trials)


def decide(incumbent: Sequence[Outcome], candidate: Sequence[Outcome], config: GateConfig) -> GateResult:
    """Compare two models' outcomes on the same held-out examples.

    Reject if the candidate is significantly worse or a large enough category drops by more than
    `max_slice_drop`; else promote if it is significantly better; else inconclusive.
    """
    problem = pairing_problem(incumbent, candidate, config)
    if problem is not None:
        return GateResult("inconclusive", problem)
    theirs = {outcome.id: outcome for outcome in candidate}
    pairs = [(outcome, theirs[outcome.id]) for outcome in incumbent]
    count = len(pairs)
    wins = sum(new.correct and not old.correct for old, new in pairs)
    losses = sum(old.correct and not new.correct for old, new in pairs)
    p_better = binomial_tail(wins, wins + losses)
    p_worse = binomial_tail(losses, wins + losses)
    slices = slices_of(pairs, config)
    decision, reason = _verdict(wins, losses, p_better, p_worse, slices, config)
    return GateResult(
        decision=decision,
        reason=reason,
        count=count,
        wins=wins,
        losses=losses,
        p_better=p_better,
        p_worse=p_worse,
        incumbent_accuracy=sum(old.correct for old, _ in pairs) / count,
        candidate_accuracy=sum(new.correct for _, new in pairs) / count,
        slices=slices,
    )


def pairing_problem(incumbent: Sequence[Outcome], candidate: Sequence[Outcome], config: GateConfig) -> str | None:
    """Why the two evaluations cannot be compared, or None when they can."""
    expected = {outcome.id: outcome.expected for outcome in incumbent}
    answered = {outcome.id: outcome.expected for outcome in candidate}
    if len(expected) != len(incumbent) or len(answered) != len(candidate):
        return "an evaluation holds the same example twice"
    if expected.keys() != answered.keys():
        missing = len(expected.keys() ^ answered.keys())
        return f"{missing} held-out examples were answered by one model only"
    if expected != answered:
        return "the true answer of a held-out example changed between the two evaluations"
    if len(expected) < config.min_holdout:
        return f"{len(expected)} held-out examples, fewer than gate.min_holdout ({config.min_holdout}): label more"
    return None


def slices_of(pairs: Sequence[tuple[Outcome, Outcome]], config: GateConfig) -> tuple[SliceResult, ...]:
    by_category: defaultdict[str, list[tuple[Outcome, Outcome]]] = defaultdict(list)
    for old, new in pairs:
        if old.category is not None:
            by_category[old.category].append((old, new))
    return tuple(
        SliceResult(
            category=category,
            count=len(members),
            incumbent_accuracy=sum(old.correct for old, _ in members) / len(members),
            candidate_accuracy=sum(new.correct for _, new in members) / len(members),
            decides=len(members) >= config.min_slice,
        )
        for category, members in sorted(by_category.items())
    )


def _verdict(
    wins: int, losses: int, p_better: float, p_worse: float, slices: Sequence[SliceResult], config: GateConfig
) -> tuple[Decision, str]:
    score = f"{wins} wins, {losses} losses"
    dropped = [part for part in slices if part.decides and part.drop > config.max_slice_drop]
    if dropped:
        worst = max(dropped, key=lambda part: part.drop)
        return "reject", (
            f"category {worst.category!r} drops from {worst.incumbent_accuracy:.3f} to "
            f"{worst.candidate_accuracy:.3f} ({worst.count} examples)"
        )
    if p_worse <= config.alpha:
        return "reject", f"significantly worse: {score}, p = {p_worse:.2g}"
    if p_better <= config.alpha:
        return "promote", f"significantly better: {score}, p = {p_better:.2g}"
    return "inconclusive", f"no significant difference: {score}, p = {p_better:.2g}"
