"""The detector of falls: its false-alarm rate is what it says, it finds falls, it goes on from what it kept."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.drift.falls import FALLS, FallDetector


def detector(reference: int = 200, false_alarm_every: float = 1000.0, **settings: bool) -> FallDetector:
    return FallDetector(reference, false_alarm_every, **settings)


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("mean", [0.8, 0.98])
def test_without_a_fall_alarms_are_no_more_frequent_than_stated(mean: float, grows: bool) -> None:
    """Two-valued data, also where a short reference knows little of its mean."""
    within, every, runs = 150, 1000.0, 60
    alarms = 0
    for seed in range(runs):
        values = np.random.default_rng(seed).random(30 + within) < mean
        found = detector(30, every, grows=grows)
        alarms += any(found.add(float(value)) for value in values)
    most = runs * within / every
    assert alarms <= most + 2 * np.sqrt(most)


@given(
    mean=st.floats(0.02, 0.98),
    low=st.floats(-0.5, 0.0),
    high=st.floats(1.0, 1.5),
    share=st.floats(0.0, 1.0),
    above=st.floats(0.0, 1.0),
)
def test_no_gambler_gains_on_average_while_the_mean_is_that_of_its_cell(
    mean: float, low: float, high: float, share: float, above: float
) -> None:
    """For two values with this mean, in the cell that it lies in, no capital is negative, nor grows on average."""
    whole = detector(40)
    for value in np.random.default_rng(1).random(40) < mean:
        whole.add(float(value), low, high)
    cell = int(np.clip(np.searchsorted(whole.edges, mean) - 1, 0, len(whole.edges) - 2))
    top, bottom = mean + (high - mean) * share, mean - (mean - low) * above
    chance = 1.0 if top - bottom < 1e-9 else (mean - bottom) / (top - bottom)
    held = 0.5 + 0.5 * np.exp(whole.higher[cell]).mean()
    gained, higher = np.zeros(len(FALLS)), np.zeros(len(whole.higher[cell]))
    for value, weight in ((top, chance), (bottom, 1 - chance)):
        found = detector(40, grows=True)
        found.restore(whole.state())
        found.grows = True
        found.add(value, low, high)
        assert (found.lower >= 0).all()
        assert np.isfinite(found.higher).all()
        gained += weight * found.lower[cell]
        higher += weight * np.exp(found.higher[cell] - whole.higher[cell])
    assert (gained <= held * (1 + 1e-9)).all()
    assert (higher <= 1 + 1e-9).all()


def test_the_level_comes_close_to_the_mean_and_is_hardly_ever_above_it() -> None:
    levels = []
    for seed in range(60):
        found = detector(500)
        for value in np.random.default_rng(seed).beta(8, 3, 500):
            found.add(float(value))
        levels.append(found.level or 0.0)
    assert sum(level > 8 / 11 for level in levels) <= 7  # 3 are expected at most
    assert np.median(levels) > 0.70


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_reference_of_one_value_alone_is_one(value: float) -> None:
    found = detector(50, 1000.0)
    assert not any(found.add(value) for _ in range(500))
    assert found.phase == "watching"
    if value:
        assert any(found.add(0.0) for _ in range(100))


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


def test_what_another_form_of_detector_had_kept_is_begun_anew() -> None:
    found = detector(50)
    found.restore({"seen": 70, "level": 0.5, "bound": None, "evidence": [1.0] * 6})
    assert (found.seen, found.phase) == (0, "reference")


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


@pytest.mark.parametrize("fall", [1.0, 0.8])
@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_many_values_at_once_say_what_they_say_one_by_one(fall: float, at_once: int) -> None:
    rng = np.random.default_rng(11)
    values = [*rng.beta(8, 3, 900), *(rng.beta(8, 3, 300) * fall)]
    single, together = detector(500, 20_000.0), detector(500, 20_000.0)
    raised = [place for place, value in enumerate(values) if single.add(value)]
    found = [(at, together.add_all(values[at : at + at_once])) for at in range(0, len(values), at_once)]
    assert [at + place for at, place in found if place is not None] == raised
    assert bool(raised) == (fall < 1)
    assert together.seen == single.seen == len(values)
    assert together.began == single.began
    np.testing.assert_allclose(together.lower, single.lower, rtol=1e-9)
    np.testing.assert_allclose(together.run, single.run, atol=1e-9)


def test_evidence_beyond_what_a_number_holds_stays_a_number() -> None:
    found = detector(50, math.inf)
    found.add_all([0.99] * 60)
    found.add_all([0.0] * 5000)
    assert not found.alarmed
    assert np.isfinite(found.lower).all()
    assert found.lower.max() > 1e290
