"""What the figures and tables of a report have in common: calibration, coverage, and selections that were not made.

Owns the arithmetic; pure. Does not read files (stored_run) nor draw. Invariant: an answer without a finite entropy is
the least sure of all, and a truth that is not known counts neither as right nor as wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from semievol.config.method import SelectionConfig
from semievol.labelling import confidence
from semievol.labelling.collaboration import answer_entropy, ranking
from semievol.labelling.selection import Selection, scored, select
from semievol.report.data import PoolPoint, Score, ThetaPoint, VotePoint
from semievol.types import PseudoLabel

CONFIDENCE_BINS = 10
THETAS = tuple(n / 20 for n in range(1, 21))


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Answers of nearly equal confidence: those in [low, high), the last bin with its upper end."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class CoveragePoint:
    """The `kept` surest pseudo-labels of known truth: those at or below `uncertainty`, which selection ranks by."""

    uncertainty: float
    kept: int
    coverage: float
    correct: int

    @property
    def precision(self) -> float:
        return self.correct / self.kept


def calibration(answers: Sequence[tuple[float, bool]]) -> list[CalibrationBin]:
    """(confidence, right) pairs in ten bins of equal range; empty bins are left out."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(CONFIDENCE_BINS)]
    for value, right in answers:
        sure = min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0
        bins[min(CONFIDENCE_BINS - 1, int(sure * CONFIDENCE_BINS))].append((sure, right))
    return [
        CalibrationBin(
            low=place / CONFIDENCE_BINS,
            high=(place + 1) / CONFIDENCE_BINS,
            count=len(group),
            confidence=math.fsum(value for value, _ in group) / len(group),
            accuracy=sum(right for _, right in group) / len(group),
        )
        for place, group in enumerate(bins)
        if group
    ]


def calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """The expected calibration error: |confidence - accuracy|, averaged over answers (Naeini et al., 2015)."""
    count = sum(part.count for part in bins)
    return sum(abs(part.confidence - part.accuracy) * part.count for part in bins) / count if count else 0.0


def coverage(pool: Sequence[PoolPoint]) -> list[CoveragePoint]:
    """The pool from the surest on, as selection ranks; one point for each rank, since no threshold parts equal ones."""
    known = sorted((p for p in pool if p.correct is not None), key=lambda p: p.rank)
    points: list[CoveragePoint] = []
    correct = 0
    for place, p in enumerate(known, start=1):
        correct += p.correct is True
        if place == len(known) or known[place].rank != p.rank:
            points.append(CoveragePoint(p.rank, place, place / len(known), correct))
    return points


Judge = Callable[[PseudoLabel, str | None], bool | None]
"""Whether an answer to the query of a pseudo-label is right; None: not known."""


def judge(truth: Mapping[str, str]) -> Judge:
    """Compares with the canonical true answers by query id."""

    def right(label: PseudoLabel, answer: str | None) -> bool | None:
        return answer == truth[label.query.id] if label.query.id in truth else None

    return right


def score(verdicts: Sequence[bool | None]) -> Score | None:
    """Right answers out of those that are known; None where nothing is known."""
    known = [verdict for verdict in verdicts if verdict is not None]
    return Score(sum(known), len(known)) if known else None


def theta_points(
    round_number: int, labels: Sequence[PseudoLabel], config: SelectionConfig, right: Judge
) -> list[ThetaPoint]:
    """What theta 0.05, 0.1, ... 1 and the run's own would have selected, whatever rule took theta's place."""
    points = []
    own = set() if config.theta == "auto" else {config.theta}
    for theta in sorted({*THETAS, *own}) if labels else ():
        chosen = _selection(labels, config.model_copy(update={"theta": theta}))
        kept = frozenset(chosen.kept)
        verdicts = [right(label, label.answer) for label in labels if label.query.id in kept]
        used = config.risk is None and theta == config.theta
        points.append(ThetaPoint(round_number, theta, chosen.threshold, len(kept), len(labels), score(verdicts), used))
    return points


def vote_points(
    round_number: int, labels: Sequence[PseudoLabel], config: SelectionConfig, right: Judge
) -> list[VotePoint]:
    """What the first 1, 2, ... n candidate answers would have given, by vote alone (no self-justification)."""
    most = max((len(label.candidates) for label in labels), default=0)
    points = []
    for n in range(1, most + 1):
        voted = [_voted(label, n) for label in labels]
        verdicts = [right(label, label.answer) for label in voted]
        kept = frozenset(_selection(voted, config).kept)
        points.append(
            VotePoint(
                round=round_number,
                n=n,
                agreement=math.fsum(label.agreement for label in voted) / len(voted),
                parsed=sum(label.answer is not None for label in voted),
                pool=len(labels),
                right=score(verdicts),
                selected=len(kept),
                selected_right=score([v for label, v in zip(voted, verdicts, strict=True) if label.query.id in kept]),
            )
        )
    return points


def _selection(labels: Sequence[PseudoLabel], config: SelectionConfig) -> Selection:
    return select([scored(label, config) for label in labels], config)


def _voted(label: PseudoLabel, n: int) -> PseudoLabel:
    """The pseudo-label that a vote among its first `n` candidate answers gives."""
    heard = label.candidates[:n]
    answer = next(iter(ranking(heard)), None)
    entropy, agreement = answer_entropy(heard, answer), confidence.agreement([each.answer for each in heard], answer)
    sure = confidence.confidence(entropy, agreement)
    return replace(
        label, answer=answer, entropy=entropy, agreement=agreement, confidence=sure, justified=False, candidates=heard
    )
