import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol import confidence


def test_entropy_is_the_mean_negative_log_probability() -> None:
    assert confidence.entropy([-1.0, -2.0, -3.0]) == 2.0


@pytest.mark.parametrize("logprobs", [[], [math.nan], [-0.1, -math.inf], [-0.1, math.inf]])
def test_what_was_not_measured_is_infinitely_unsure(logprobs: list[float]) -> None:
    assert confidence.entropy(logprobs) == math.inf


@given(st.lists(st.floats(-50, 1e-6), min_size=1))
def test_entropy_is_never_negative(logprobs: list[float]) -> None:
    assert confidence.entropy(logprobs) >= 0


def test_the_mean_of_no_entropies_is_infinite() -> None:
    assert confidence.mean_entropy([]) == math.inf
    assert confidence.mean_entropy([1.0, 2.0]) == 1.5


def test_unparseable_candidates_count_against_agreement() -> None:
    assert confidence.agreement(["a", None, "a", "b"], "a") == 0.5
    assert confidence.agreement([None, None, None, None], None) == 0.0
    assert confidence.agreement([], "a") == 0.0


def test_confidence_lies_between_zero_and_one() -> None:
    assert confidence.confidence(0.0, 1.0) == 1.0
    assert confidence.confidence(math.inf, 1.0) == 0.0
    assert confidence.confidence(math.nan, 1.0) == 0.0
    assert confidence.confidence(math.log(2), 0.5) == pytest.approx(0.25)
