"""What a report can show, as plain values: filled by a run on files or by the daemon, JSON both ways.

Owns the records and what follows from one of them alone; how they look is report_figures' and the template's.
Invariant: everything but a title may be missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from semievol.errors import DataError

# JSON has no infinity, which is the entropy of an empty answer, and no NaN, which a loss can become.
_INFINITY_AS_TEXT = ConfigDict(ser_json_inf_nan="strings")


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers out of all."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total if self.total else 0.0

    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval of the accuracy (E. B. Wilson, 1927)."""
        if not self.total:
            return 0.0, 1.0
        z, n, p = 1.96, self.total, self.accuracy
        centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One round. Scores are None where nothing was measured; `*_before` is the incumbent's, `*_after` the candidate's.

    `started_s` and `ended_s` count from the start of the run. `losses` are (optimiser step, loss) pairs.
    `selected_correct` counts right pseudo-labels among those selected; None where the truth is not known.
    `selected_known` counts the selected ones whose truth is known; None: all of them.
    """

    number: int
    kind: str
    state: str
    adapter: str | None = None
    reason: str | None = None
    decision: str | None = None
    p_better: float | None = None
    wins: int | None = None
    losses_to_incumbent: int | None = None
    holdout_before: Score | None = None
    holdout_after: Score | None = None
    test_before: Score | None = None
    test_after: Score | None = None
    pool: int = 0
    selected: int = 0
    selected_correct: int | None = None
    selected_known: int | None = None
    threshold: float | None = None
    training_s: float | None = None
    losses: tuple[tuple[int, float], ...] = ()
    started_s: float | None = None
    ended_s: float | None = None

    __pydantic_config__ = _INFINITY_AS_TEXT

    @property
    def name(self) -> str:
        return "warm" if self.kind == "warm" else f"round {self.number}"

    @property
    def promoted(self) -> bool:
        return self.state in ("promoted", "settled")

    @property
    def selected_precision(self) -> float | None:
        known = self.selected if self.selected_known is None else self.selected_known
        return self.selected_correct / known if self.selected_correct is not None and known else None


@dataclass(frozen=True, slots=True)
class PoolPoint:
    """A pseudo-label in the pool of a round. `correct` None: the truth is not known; entropy in nats per token.

    What follows `correct` is for the tables: `answer` None did not parse, `reason` says why it was not selected.
    `uncertainty`: what selection ranked it by (see `ReportData.ranked_by`), lower being surer; None: the entropy.
    """

    round: int
    entropy: float
    confidence: float
    selected: bool
    correct: bool | None = None
    id: str | None = None
    answer: str | None = None
    truth: str | None = None
    agreement: float | None = None
    reason: str | None = None
    uncertainty: float | None = None

    @property
    def rank(self) -> float:
        """What selection compares, lower being surer; inf where it is not a number."""
        value = self.entropy if self.uncertainty is None else self.uncertainty
        return value if math.isfinite(self.entropy) and math.isfinite(value) else math.inf

    __pydantic_config__ = _INFINITY_AS_TEXT


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer to a labelled question, closed book; entropy in nats per token."""

    entropy: float
    correct: bool
    category: str | None = None

    __pydantic_config__ = _INFINITY_AS_TEXT

    @property
    def confidence(self) -> float:
        """exp(-entropy), in [0, 1]: the geometric mean of the probabilities of the answer's tokens."""
        return 0.0 if math.isnan(self.entropy) else math.exp(-max(self.entropy, 0.0))


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What one adapter (None: the base model) answered to one set of labelled questions.

    `name` is what a figure calls it: base, warm, round 2. `answers` may be empty where only the score is known.
    """

    name: str
    adapter: str | None
    examples: Literal["test", "holdout"]
    score: Score
    answers: tuple[Answered, ...] = ()


@dataclass(frozen=True, slots=True)
class ThetaPoint:
    """What a round would have selected from its pool with another `theta`, all other settings unchanged.

    `threshold` of what selection ranks by. `right` is over those whose truth is known; None: it is known of none.
    `used`: the theta of the run.
    """

    round: int
    theta: float
    threshold: float
    selected: int
    pool: int
    right: Score | None = None
    used: bool = False

    __pydantic_config__ = _INFINITY_AS_TEXT


@dataclass(frozen=True, slots=True)
class VotePoint:
    """What a vote among the first `n` stored candidate answers of each pseudo-label gives; nothing is asked again.

    `agreement` is the mean over the pool. `parsed` counts the pseudo-labels with an answer, `selected` those that the
    run's selection would keep. Scores are over what is known; None: nothing is.
    """

    round: int
    n: int
    agreement: float
    parsed: int
    pool: int
    right: Score | None = None
    selected: int = 0
    selected_right: Score | None = None


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """Test accuracy of a whole run with one setting changed: one row of `sweep.json`.

    The file is a JSON list of `{"parameter": "theta", "value": 0.5, "accuracy": {"correct": 70, "total": 100}}`.
    `parameter` is `n` (candidate answers), `theta`, `ratio` (unlabeled to labelled data), or any other name.
    """

    parameter: str
    value: float
    accuracy: Score


@dataclass(frozen=True, slots=True)
class CategoryScore:
    """Test accuracy of one category, before (by the warm adapter, where there was one) and at the end."""

    category: str
    before: Score
    after: Score


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often test examples of `expected` were answered with `answer` (None: did not parse)."""

    expected: str
    answer: str | None
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Swap:
    """The alias moved. `failed_requests` of the `requests` that clients made around it, None: not counted."""

    at_s: float
    adapter: str | None
    previous: str | None
    reason: str
    requests: int | None = None
    failed_requests: int | None = None


@dataclass(frozen=True, slots=True)
class ProgressPoint:
    """Queries labelled since the start of the run."""

    at_s: float
    labelled: int


@dataclass(frozen=True, slots=True)
class Candidate:
    configuration: str
    text: str
    answer: str | None
    entropy: float

    __pydantic_config__ = _INFINITY_AS_TEXT


@dataclass(frozen=True, slots=True)
class ShownNeighbour:
    id: str
    question: str
    answer: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """One query and all that led to its pseudo-label. `truth` None: not known."""

    id: str
    question: str
    answer: str | None
    entropy: float
    agreement: float
    selected: bool
    adapter: str | None
    truth: str | None = None
    reason: str | None = None
    justified: bool = False
    neighbours: tuple[ShownNeighbour, ...] = ()
    candidates: tuple[Candidate, ...] = ()

    __pydantic_config__ = _INFINITY_AS_TEXT


@dataclass(frozen=True, slots=True)
class ReportData:
    """All that a report shows. `facts` are shown in order, as they are (model, seed, seconds, configuration hash).

    `comparison` says which answers of which adapters `categories` and `confusions` compare. `served`: a daemon served
    clients while the rounds ran; a run on files has no alias to swap. `ranked_by`: the measure of `selection.by`.
    `consensus`: the answers of pseudo-labels are those of all queries together.
    """

    title: str
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    rounds: tuple[RoundReport, ...] = ()
    pool: tuple[PoolPoint, ...] = ()
    categories: tuple[CategoryScore, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    swaps: tuple[Swap, ...] = ()
    progress: tuple[ProgressPoint, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    notes: tuple[str, ...] = ()
    evaluated: tuple[Evaluated, ...] = ()
    theta: tuple[ThetaPoint, ...] = ()
    votes: tuple[VotePoint, ...] = ()
    sweep: tuple[SweepPoint, ...] = ()
    comparison: str = "Test set; before: the warm adapter; after: the adapter that serves at the end."
    served: bool = True
    ranked_by: str = "entropy"
    consensus: bool = False

    def to_json(self) -> str:
        return _ADAPTER.dump_json(self, indent=1).decode()

    @classmethod
    def from_json(cls, text: str) -> ReportData:
        """Read what `to_json` wrote.

        Raises:
            DataError: names the first field that is missing or of the wrong type.
        """
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            raise DataError(f"not a report: {_first_problem(error)}") from error


def sweep_from_json(text: str) -> tuple[SweepPoint, ...]:
    """Read the list that `SweepPoint` describes.

    Raises:
        DataError: names the first field that is missing or wrong.
    """
    try:
        points = _SWEEP.validate_json(text)
    except ValidationError as error:
        raise DataError(f"is not a sweep: {_first_problem(error)}") from None
    for number, point in enumerate(points):
        if not (math.isfinite(point.value) and 0 <= point.accuracy.correct <= point.accuracy.total):
            raise DataError(f"is not a sweep: {number}: needs a finite value and 0 <= correct <= total")
    return points


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}"


_ADAPTER = TypeAdapter(ReportData)
_SWEEP = TypeAdapter(tuple[SweepPoint, ...])


@dataclass(frozen=True, slots=True)
class Headline:
    """Test accuracy of what served: at first, after the warm round (None: there was none), and at the end."""

    first: Score
    warm: Score | None
    last: Score
    promoted: int
    refused: int

    @property
    def gain(self) -> float:
        """What the evolve rounds added, as a share; what all rounds added where there was no warm one."""
        return self.last.accuracy - (self.warm or self.first).accuracy


def headline(data: ReportData) -> Headline | None:
    """None where no promoted round was tested."""
    tested = [r for r in data.rounds if r.promoted and r.test_after]
    if not tested or not tested[0].test_before or not tested[-1].test_after:
        return None
    evolved = len(tested) > 1 and tested[0].kind == "warm"
    return Headline(
        first=tested[0].test_before,
        warm=tested[0].test_after if evolved else None,
        last=tested[-1].test_after,
        promoted=sum(r.promoted for r in data.rounds),
        refused=sum(r.state in ("rejected", "inconclusive") for r in data.rounds),
    )
