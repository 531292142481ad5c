"""Means, intervals and paired tests of a comparison, against values worked out by other means."""

import math

import pytest

from semievol.comparison.statistics import error_reduction, gap_closed, mean_accuracy, paired_difference


def test_the_interval_over_seeds_is_students() -> None:
    found = mean_accuracy([[True] * 7 + [False] * 3, [True] * 8 + [False] * 2, [True] * 9 + [False]])
    assert (found.mean, found.seeds, found.high) == (pytest.approx(0.8), 3, 1.0)
    # Ten questions say little: Wilson's interval of 8 in 10 is the wider one.
    assert found.low == pytest.approx(0.4902, abs=1e-3)
    many = mean_accuracy([[True] * 700 + [False] * 300, [True] * 800 + [False] * 200, [True] * 900 + [False] * 100])
    # sd 0.1, t(2) = 4.3027: 0.8 +- 4.3027 * 0.1 / sqrt(3)
    assert many.low == pytest.approx(0.8 - 4.30265 * 0.1 / math.sqrt(3), abs=1e-4)


def test_one_seed_has_the_interval_of_its_questions() -> None:
    found = mean_accuracy([[True] * 50 + [False] * 50])
    assert (round(found.low, 3), round(found.high, 3)) == (0.404, 0.596)


def test_a_seed_without_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        mean_accuracy([])
    with pytest.raises(ValueError, match="at least one seed"):
        mean_accuracy([[True], []])


def test_the_paired_test_is_over_questions() -> None:
    ours = {f"q{i}": i < 8 for i in range(10)}
    theirs = {f"q{i}": i < 5 for i in range(10)}
    found = paired_difference([ours], [theirs])
    # Differences: three ones, seven zeros. t = 0.3 / (0.48305 / sqrt(10)) = 1.9640, 9 degrees: p = 0.0811
    assert (found.difference, found.questions) == (pytest.approx(0.3), 10)
    assert found.p_value == pytest.approx(0.0811, abs=1e-3)
    assert found.low < 0 < found.high


def test_seeds_are_averaged_before_the_test() -> None:
    always = [{"q0": True, "q1": True}] * 2
    once = [{"q0": True, "q1": False}, {"q0": True, "q1": True}]
    assert paired_difference(always, once).difference == pytest.approx(0.25)
    assert paired_difference(always, always).p_value == 1.0


def test_one_question_proves_nothing() -> None:
    assert paired_difference([{"q0": True}], [{"q0": False}]).p_value == 1.0
    assert paired_difference([{"q0": True, "q1": True}], [{"q0": False, "q1": False}]).p_value == 0.5


def test_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="the same questions"):
        paired_difference([{"q0": True}], [{"q1": True}])


def test_shares_of_error_and_gap() -> None:
    assert error_reduction(0.5, 0.75) == 0.5
    assert error_reduction(1.0, 1.0) is None
    assert gap_closed(0.5, 0.7, 0.75) == pytest.approx(0.8)
    assert gap_closed(0.8, 0.9, 0.8) is None
