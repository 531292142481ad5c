"""The detector of falls: its false-alarm rate is what it says, it finds falls, it goes on from what it kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.drift.falls import REFERENCE_ERROR, STAKES, FallDetector
from semievol.drift.lower_bound import LowerBound


def detector(reference: int = 200, false_alarm_every: float = 1000.0, **settings: bool) -> FallDetector:
    return FallDetector(reference, false_alarm_every, **settings)


def test_evidence_reaches_the_line_later_on_average_than_stated() -> None:
    """Two-valued data with a mean of exactly the level is the worst that `no fall` can be."""
    every, lengths = 60.0, []
    for seed in range(60):
        rng, found = np.random.default_rng(seed), detector(1, every)
        found.level = 0.8
        while not found.add(float(rng.random() < 0.8)) and found.seen < 1500:
            pass
        lengths.append(found.seen)
    assert np.mean(lengths) >= every


@given(
    level=st.floats(0.01, 0.98),
    low=st.floats(-0.5, 0.0),
    high=st.floats(1.0, 1.5),
    share=st.floats(0.0, 1.0),
    above=st.floats(0.0, 1.0),
)
def test_no_gambler_gains_on_average_while_the_mean_is_not_below_the_level(
    level: float, low: float, high: float, share: float, above: float
) -> None:
    """For two values whose mean is the level, or above, the factors are not negative and one at most on average."""
    top = level + (high - level) * share
    bottom = low + (level - low) * above
    chance = 1.0 if top - bottom < 1e-9 else min(1.0, (level - bottom) / (top - bottom))
    mean = np.zeros(len(STAKES))
    for value, weight in ((top, chance), (bottom, 1 - chance)):
        found = detector()
        found.level = level
        found.add(value, low, high)
        assert (found.evidence >= 0).all()
        mean += weight * found.evidence
    assert (mean <= 1 + 1e-9).all()


def test_the_bound_is_hardly_ever_above_the_mean_at_any_time() -> None:
    above = 0
    for seed in range(150):
        rng, bound = np.random.default_rng(seed), LowerBound(150, REFERENCE_ERROR)
        crossed = False
        for number in range(300):
            bound.add(float(rng.random() < 0.7))
            crossed = crossed or (number % 10 == 0 and bound.value > 0.7)
        above += crossed
    assert above <= 14  # 7.5 are expected at most


def test_the_bound_comes_close_to_the_mean() -> None:
    rng, bound = np.random.default_rng(1), LowerBound(500, REFERENCE_ERROR)
    for value in rng.beta(8, 3, 500):
        bound.add(value)
    assert 0.70 < bound.value < 8 / 11


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60))
def test_the_bound_is_below_what_was_seen(values: list[float]) -> None:
    bound = LowerBound(len(values), REFERENCE_ERROR)
    for value in values:
        bound.add(value)
    assert 0.0 <= bound.value <= max(float(np.mean(values)), 0.0025)


def test_a_fall_is_found_and_its_begin_is_named() -> None:
    rng, found = np.random.default_rng(3), detector(500, 100_000.0)
    assert not any(found.add(value) for value in rng.beta(8, 3, 2000))
    assert found.phase == "watching"
    delay = next(number for number in range(1, 1000) if found.add(rng.beta(8, 3) * 0.8))
    assert delay < 300
    assert found.phase == "alarmed"
    assert 1900 <= found.began <= 2000 + delay


def test_one_shift_is_one_alarm() -> None:
    found = detector(50, 100.0)
    raised = [found.add(0.9) for _ in range(60)] + [found.add(0.1) for _ in range(500)]
    assert sum(raised) == 1


def test_a_reference_that_grows_never_lowers_the_level() -> None:
    rng, found = np.random.default_rng(5), detector(50, 1e12, grows=True)
    levels = []
    for value in [*(rng.random(400) < 0.9), *(rng.random(200) < 0.5)]:
        found.add(float(value))
        levels.append(found.level or 0.0)
    assert levels == sorted(levels)
    assert levels[60] < levels[399] < 0.9


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("at", [10, 49, 50, 120])
def test_what_was_kept_goes_on_as_if_it_had_never_stopped(at: int, grows: bool) -> None:
    values = np.random.default_rng(7).random(200)
    whole, first, second = (detector(50, 1e6, grows=grows) for _ in range(3))
    for value in values[:at]:
        first.add(value)
    second.restore(json.loads(json.dumps(first.state())))
    for value in values:
        whole.add(value)
    for value in values[at:]:
        second.add(value)
    assert second.seen == whole.seen == 200
    assert second.level == pytest.approx(whole.level)
    assert second.statistic == pytest.approx(whole.statistic)
    assert second.began == whole.began
