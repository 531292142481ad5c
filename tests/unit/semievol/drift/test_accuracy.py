"""Accuracy from few labels: intervals that hold, a proxy that helps and cannot mislead, estimates without labels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from semievol.drift.accuracy import LEAST, ProxyRecord, powered_interval

Window = tuple[list[tuple[bool, float]], list[float], float]


def answers(rng: np.random.Generator, count: int, accuracy: float, worth: float) -> tuple[list[bool], list[float]]:
    """Answers and their proxies; `worth` 0: the proxy knows nothing, 1: nearly all."""
    right = rng.random(count) < accuracy
    noise = rng.random(count)
    return list(map(bool, right)), list(np.clip(worth * (0.25 + 0.6 * right) + (1 - worth) * noise, 0, 1))


def record(rng: np.random.Generator, count: int, accuracy: float, worth: float) -> ProxyRecord:
    found = ProxyRecord()
    for correct, proxy in zip(*answers(rng, count, accuracy, worth), strict=True):
        found.add(correct, proxy)
    return found


@pytest.mark.parametrize("worth", [0.0, 0.8])
def test_the_interval_covers_what_is_true_of_the_window(worth: float) -> None:
    rng = np.random.default_rng(1)
    earlier, covered, widths = record(rng, 100, 0.85, worth), 0, []
    for _ in range(300):
        right, proxies = answers(rng, 500, 0.85, worth)
        found = powered_interval(earlier, list(zip(right, proxies, strict=True))[:25], proxies)
        assert found is not None
        covered += found.low <= np.mean(right) <= found.high
        widths.append(found.high - found.low)
    assert covered >= 0.93 * 300
    assert np.mean(widths) < (0.3 if worth == 0 else 0.22)


def test_a_proxy_that_is_sure_of_everything_does_not_raise_the_estimate() -> None:
    rng = np.random.default_rng(2)
    earlier = record(rng, 200, 0.9, 0.8)
    estimates = []
    for _ in range(100):
        right, _ = answers(rng, 500, 0.6, 0.8)
        found = powered_interval(earlier, [(each, 0.85) for each in right[:25]], [0.85] * 500)
        assert found is not None
        estimates.append(found.estimate)
    assert np.mean(estimates) == pytest.approx(0.6, abs=0.03)


def test_the_powered_value_has_the_mean_of_the_truth_and_stays_in_its_range() -> None:
    rng = np.random.default_rng(3)
    earlier = record(rng, 300, 0.8, 0.8)
    right, proxies = answers(rng, 4000, 0.7, 0.8)
    mean, values = float(np.mean(proxies)), []
    for correct, proxy in zip(right, proxies, strict=True):
        value, low, high = earlier.powered(correct, proxy, mean)
        assert low <= value <= high
        values.append(value)
    assert np.mean(values) == pytest.approx(np.mean(right))
    assert np.var(values) < 0.6 * np.var(right)


def test_the_proxy_has_no_weight_before_labels_speak_for_it() -> None:
    few = record(np.random.default_rng(4), LEAST - 1, 0.8, 0.9)
    assert few.weight == 0.0
    assert few.correlation is None
    assert few.estimated([0.9]) is None
    assert few.powered(True, 0.3, 0.9) == (1.0, 0.0, 1.0)


def test_without_labels_accuracy_is_what_answers_of_such_a_proxy_had() -> None:
    rng = np.random.default_rng(5)
    earlier = record(rng, 1000, 0.8, 0.8)
    right, proxies = answers(rng, 2000, 0.6, 0.8)
    estimate = earlier.estimated(proxies)
    assert estimate is not None
    assert estimate == pytest.approx(np.mean(right), abs=0.06)


def test_no_label_is_no_interval() -> None:
    assert powered_interval(ProxyRecord(), [], [0.5]) is None


def test_a_record_is_kept_whole() -> None:
    earlier = record(np.random.default_rng(6), 50, 0.8, 0.5)
    assert ProxyRecord.of(json.loads(json.dumps(earlier.state()))) == earlier
