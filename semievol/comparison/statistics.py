"""What a comparison's outcomes say: means with intervals over seeds, paired tests over questions.

Owns the numbers of the table; pure. Two kinds of chance are told apart: that of a seed (which examples, which order)
by the interval over seeds, and that of the test questions by the paired test.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semievol.report.data import Score


@dataclass(frozen=True, slots=True)
class MeanAccuracy:
    """Accuracy over seeds. `low`, `high`: 95 % interval of the mean.

    Student's over seeds, and never narrower than Wilson's of one test set: its questions are drawn by chance too.
    """

    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much one method is right more often than another on the same questions.

    difference: mean over questions of the difference, each averaged over seeds first, as questions are what the other
    data of this kind would differ in. p_value: two-sided paired t test over questions; 1 where nothing differs.
    """

    difference: float
    low: float
    high: float
    p_value: float
    questions: int


def mean_accuracy(correct_by_seed: Sequence[Sequence[bool]]) -> MeanAccuracy:
    """`correct_by_seed`: one list of right and wrong answers a seed.

    Raises:
        ValueError: no seed, or no answers.
    """
    if not correct_by_seed or not all(correct_by_seed):
        raise ValueError("mean_accuracy: needs the answers of at least one seed")
    accuracies = [sum(correct) / len(correct) for correct in correct_by_seed]
    mean = statistics.fmean(accuracies)
    questions = len(correct_by_seed[0])
    low, high = Score(round(mean * questions), questions).interval()
    if len(accuracies) > 1:
        half = _t_quantile(len(accuracies) - 1) * statistics.stdev(accuracies) / math.sqrt(len(accuracies))
        low, high = min(low, max(0.0, mean - half)), max(high, min(1.0, mean + half))
    return MeanAccuracy(mean, low, high, len(accuracies))


def paired_difference(first: Sequence[Mapping[str, bool]], second: Sequence[Mapping[str, bool]]) -> PairedDifference:
    """Of `first` over `second`: per seed, whether each question (by id) was answered rightly.

    Raises:
        ValueError: the two do not have the same seeds and questions.
    """
    if len(first) != len(second) or any(a.keys() != b.keys() for a, b in zip(first, second, strict=True)):
        raise ValueError("paired_difference: both need the same seeds and the same questions")
    by_question: dict[str, list[int]] = {}
    for ours, theirs in zip(first, second, strict=True):
        for question, correct in ours.items():
            by_question.setdefault(question, []).append(int(correct) - int(theirs[question]))
    means = [statistics.fmean(each) for each in by_question.values()]
    count = len(means)
    difference = statistics.fmean(means)
    spread = statistics.stdev(means) if count > 1 else 0.0
    if spread == 0.0:
        # All differ alike, which t cannot judge: as a sign test would, and as surely as that many coins fall alike.
        p_value = 1.0 if difference == 0 else min(1.0, 2.0 * 0.5**count)
        return PairedDifference(difference, difference, difference, p_value, count)
    error = spread / math.sqrt(count)
    half = _t_quantile(count - 1) * error
    return PairedDifference(
        difference, difference - half, difference + half, _two_sided(difference / error, count - 1), count
    )


def error_reduction(before: float, after: float) -> float | None:
    """(error before - error after) / error before, the paper's measure; None where there was no error."""
    return None if before >= 1 else (after - before) / (1 - before)


def gap_closed(lower: float, accuracy: float, upper: float) -> float | None:
    """The share of the way from `lower` to `upper`; None where there is no way to go."""
    return None if upper <= lower else (accuracy - lower) / (upper - lower)


def _t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy import stats

    return float(stats.t.ppf(0.975, degrees))


def _two_sided(statistic: float, degrees: int) -> float:
    from scipy import stats

    return float(2 * stats.t.sf(abs(statistic), degrees))
