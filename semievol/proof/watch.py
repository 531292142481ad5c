"""What a version that serves may not do: sequential tests of its answers against those of the version before it.

Pure; what is known is handed in, so that whoever goes on after a crash finds the same evidence. Invariant: while the
version is no worse than the tolerance of a test allows, its evidence is a supermartingale that starts at 1 (or lies
below one), so that it ever reaches 1/alpha with a probability of at most alpha, however often it is looked at (Ville).
Values are logarithms to the base e. Not what is done about a breach, nor where answers come from.

Sources: arXiv 2010.09686 (betting), 2110.06177 (tracking the risk of a deployed model), 2210.01948 (a survey).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from semievol.proof.evidence import GRID, log_better, upper_bound

ALARM = 1_000.0
"""Evidence that is a breach: a good version reaches it in at most one of a thousand runs."""
ACCURACY_ALARM = 20.0
"""The same for labels, of which there are few; the gate asks as much of a gain (gate.alpha)."""
TOLERANCE = 0.05
"""By this share of all queries one answer may become more frequent without any evidence."""
BOUND_LEVEL = 0.95
BOUND_ANSWERS = 1_000
"""The incumbent's bound is of so many of its last answers."""
TIMES = tuple(1.5 * (16 / 3) ** (step / 7) for step in range(8))
"""How many times as often as the bound: 1.5 to 8."""
_MOST = 700.0
"""Of an exponent."""

Test = Literal["concentration", "parse_failures", "errors", "slow_answers", "accuracy"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one test says.

    evidence: an e-value, at most exp(700).
    alarm: the evidence that is a breach.
    seen: answers, pairs or labels that were looked at.
    detail: what was seen, in words.
    """

    test: Test
    evidence: float
    alarm: float
    seen: int
    detail: str

    @property
    def breach(self) -> bool:
        return self.evidence >= self.alarm

    def __str__(self) -> str:
        return f"{self.test.replace('_', ' ')}: {self.detail}; evidence {self.evidence:.3g} of {self.alarm:.3g}"


class Concentration:
    """Whether one answer takes over, on queries that both versions answered (shadow pairs).

    Before each pair the answer k is taken which the candidate has gained most of so far, net; the pair is
    x = 1[candidate said k] - 1[incumbent said k], and the wealth is multiplied by 1 + l (x - m)/(1 + m), averaged over
    stakes l in (0, 1). An adapter that answers everything alike agrees with itself perfectly: no measure of agreement
    sees it. Traffic that shifts does not matter, for both versions answer the same queries.

    Args:
        tolerance: m, the share that an answer may gain without evidence.
        allowed: by answer, a share to be allowed beyond that: how much too rarely the incumbent gives it, by what
            labels say (`given_too_rarely`); a version that mends that is no worse for it.
    """

    def __init__(self, tolerance: float = TOLERANCE, allowed: Mapping[str, float] | None = None) -> None:
        self._tolerance = tolerance
        self._allowed = {} if allowed is None else dict(allowed)
        self._gained: Counter[str] = Counter()
        self._order: dict[str, int] = {}
        """Of the answers, by when they were first gained or lost."""
        self._leader: str | None = None
        self._said: Counter[str] = Counter()
        self._logs = [0.0] * GRID
        self.pairs = 0

    @property
    def answer(self) -> str | None:
        """The answer whose gain is bet on next, the first of those that gained as much; None: none has gained."""
        return self._leader

    @property
    def log_evidence(self) -> float:
        return _log_mean(self._logs)

    def see(self, incumbent: str | None, candidate: str | None) -> None:
        """One more pair of answers in the task's canonical form; None: the answer does not parse."""
        k = self.answer
        if k is not None:
            tolerance = min(1.0, self._tolerance + self._allowed.get(k, 0.0))
            excess = ((candidate == k) - (incumbent == k) - tolerance) / (1 + tolerance)
            self._logs = [log + math.log1p(step / (GRID + 1) * excess) for step, log in enumerate(self._logs, 1)]
        self.pairs += 1
        if candidate is not None:
            self._said[candidate] += 1
        if incumbent != candidate:
            if candidate is not None:
                self._gain(candidate)
            if incumbent is not None:
                self._lose(incumbent)

    def _gain(self, answer: str) -> None:
        self._order.setdefault(answer, len(self._order))
        self._gained[answer] += 1
        if self._gained[answer] > 0 and (self._leader is None or self._rank(answer) > self._rank(self._leader)):
            self._leader = answer

    def _lose(self, answer: str) -> None:
        self._order.setdefault(answer, len(self._order))
        self._gained[answer] -= 1
        if answer == self._leader:  # nobody else's loss makes another lead: there may be thousands of answers
            found = max(self._gained, key=self._rank)
            self._leader = found if self._gained[found] > 0 else None

    def _rank(self, answer: str) -> tuple[int, int]:
        return self._gained[answer], -self._order[answer]

    def finding(self) -> Finding:
        k = self.answer
        detail = f"no answer became more frequent in {self.pairs} pairs"
        if k is not None:
            now, before = self._said[k], self._said[k] - self._gained[k]
            detail = f"{_short(k)} is the answer to {now} of {self.pairs} queries, by the version before to {before}"
        return Finding("concentration", _e(self.log_evidence), ALARM, self.pairs, detail)


def given_too_rarely(labelled: Sequence[tuple[str, str | None]]) -> dict[str, float]:
    """By answer, how much more frequent it is among the right answers than among the incumbent's; where it is more.

    Args:
        labelled: the right answer and the incumbent's, of labelled queries that nobody chose by their answers.
    """
    missing = Counter(right for right, _ in labelled)
    missing.subtract(Counter(said for _, said in labelled if said is not None))
    return {answer: count / len(labelled) for answer, count in missing.items() if count > 0}


def incumbent_bound(events: int, answers: int) -> float:
    """The incumbent's rate at most, by its last answers (Clopper-Pearson, 95 %); 1 where it has none."""
    return upper_bound(events, answers, BOUND_LEVEL) if answers else 1.0


def slow_limit(seconds: Sequence[float]) -> float:
    """Longer than this took at most a twentieth of the incumbent's answers; infinite where there are fewer than 20.

    The bound of the share that is slower is exact, though limit and share are of the same answers: both are quantiles
    of one Beta distribution, whatever the times are distributed like.
    """
    ordered = sorted(seconds)
    return ordered[len(ordered) - 1 - len(ordered) // 20] if len(ordered) >= 20 else math.inf


def log_rate_above(events: int, answers: int, bound: float) -> float:
    """Log of the evidence that something happens more often than `bound`: the likelihood ratio averaged over rates of
    1.5 to 8 times as much. A function of the counts alone, in whichever order they came. 0 at a bound of 1.
    """
    if bound >= 1 or answers == 0:
        return 0.0
    logs = []
    for times in TIMES:
        rate = min(times * bound, (1 + bound) / 2)
        logs.append(events * math.log(rate / bound) + (answers - events) * math.log((1 - rate) / (1 - bound)))
    return _log_mean(logs)


def rate_finding(test: Test, events: int, answers: int, bound: float) -> Finding:
    """Of parse failures, errors or slow answers of the version that serves now; `bound`: see `incumbent_bound`."""
    what = {"parse_failures": "answers do not parse", "errors": "requests failed", "slow_answers": "answers were slow"}
    share = f" ({events / answers:.1%})" if answers else ""
    detail = f"{events} of {answers} {what[test]}{share}, by the version before at most {bound:.1%}"
    return Finding(test, _e(log_rate_above(events, answers, bound)), ALARM, answers, detail)


def paired_failures(lost: int, gained: int, pairs: int) -> Finding:
    """Of answers that do not parse, on shadow pairs: `lost` are those of which only the version before's parses."""
    detail = f"of {pairs} queries {lost} parse only by the version before, {gained} only by this one"
    return Finding("parse_failures", _e(log_better(lost, gained)), ALARM, pairs, detail)


def accuracy_finding(wins: int, losses: int, labels: int) -> Finding:
    """Of labels that came after the promotion, answered by both versions. `wins`: only this version is right."""
    detail = f"of {labels} labels {losses} are right by the version before alone, {wins} by this one alone"
    return Finding("accuracy", _e(log_better(losses, wins)), ACCURACY_ALARM, labels, detail)


def first_breach(findings: Sequence[Finding]) -> Finding | None:
    """The breach with the most evidence beyond its alarm; None: there is none."""
    breaches = [finding for finding in findings if finding.breach]
    return max(breaches, key=lambda finding: finding.evidence / finding.alarm, default=None)


def _log_mean(logs: Sequence[float]) -> float:
    highest = max(logs)
    return highest + math.log(sum(math.exp(each - highest) for each in logs) / len(logs))


def _e(log: float) -> float:
    return math.exp(min(log, _MOST))


def _short(answer: str) -> str:
    return repr(answer if len(answer) <= 60 else answer[:57] + "...")
