"""The two fits against a library that is trusted, and what they promise."""

import numpy as np
import pytest
from scipy.optimize import minimize

from semievol.labelling.logistic import minimised, softmax_regression, sureness


def drawn(seed: int, rows: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width))


def test_the_least_value_is_found_where_scipy_finds_it() -> None:
    curvature = np.diag([1.0, 100.0, 10_000.0])
    wanted = np.array([3.0, -2.0, 0.5])

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        gap = point - wanted
        return float(0.5 * gap @ curvature @ gap + np.logaddexp(0, gap[0])), curvature @ gap + np.array(
            [1 / (1 + np.exp(-gap[0])), 0, 0]
        )

    found = minimised(loss, np.zeros(3), tolerance=1e-9)
    theirs = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B", options={"gtol": 1e-10, "ftol": 1e-16}).x
    assert found == pytest.approx(theirs, abs=1e-6)


def test_many_classes_have_the_probabilities_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows = drawn(0, 60, 5)
    classes = (rows[:, 0] > 0).astype(np.int64) + (rows[:, 1] + drawn(1, 60, 1)[:, 0] > 0.5)
    ours = softmax_regression(rows, classes, 3, 0.5).probabilities(rows)
    theirs = linear_model.LogisticRegression(C=2.0, tol=1e-8, max_iter=2000).fit(rows, classes).predict_proba(rows)
    assert ours == pytest.approx(theirs, abs=2e-3)
    assert ours.sum(axis=1) == pytest.approx(np.ones(60))


def test_evidence_never_speaks_against() -> None:
    strong = drawn(2, 400, 3)
    right = strong[:, 0] - strong[:, 1] + drawn(3, 400, 1)[:, 0] > 0
    found = sureness(strong, right)
    assert found.weights[0] > 0.5
    assert found.weights[1] == 0.0  # it would be negative
    less, more = found.probabilities(np.array([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert less < more


def test_the_sureness_is_scipys_minimum_under_the_same_bounds() -> None:
    evidence = drawn(4, 200, 4)
    right = evidence @ np.array([2.0, 0.5, -1.0, 0.0]) + drawn(5, 200, 1)[:, 0] > 0.3
    found = sureness(evidence, right, 2.0)
    scaled = np.vstack([(evidence - evidence.mean(axis=0)) / evidence.std(axis=0), np.zeros((2, 4))])
    wanted = np.append(right, [True, False])

    def loss(point: np.ndarray) -> float:
        scores = scaled @ point[:4] + point[4]
        return float(np.logaddexp(0, np.where(wanted, -scores, scores)).sum() + point[:4] @ point[:4])

    theirs = minimize(loss, np.zeros(5), method="L-BFGS-B", bounds=[(0, None)] * 4 + [(None, None)]).x
    assert np.append(found.weights, found.bias) == pytest.approx(theirs, abs=1e-3)


def test_evidence_beyond_what_was_seen_says_no_more() -> None:
    evidence = drawn(8, 200, 2)
    found = sureness(evidence, evidence[:, 0] > 0)
    most, beyond = found.probabilities(np.array([evidence.max(axis=0), [1e6, 1e6]]))
    assert most == beyond


def test_where_all_are_right_nobody_is_certain() -> None:
    found = sureness(np.zeros((18, 2)), np.ones(18, dtype=bool))
    assert found.probabilities(np.zeros((1, 2)))[0] == pytest.approx(19 / 20, abs=1e-4)


def test_the_same_rows_give_the_same_weights() -> None:
    rows, right = drawn(6, 100, 6), drawn(7, 100, 1)[:, 0] > 0
    assert np.array_equal(sureness(rows, right).weights, sureness(rows, right).weights)
    classes = right.astype(np.int64)
    first, second = (softmax_regression(rows, classes, 2, 0.1).weights for _ in range(2))
    assert np.array_equal(first, second)
