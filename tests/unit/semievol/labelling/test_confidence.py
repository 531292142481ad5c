import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.labelling import confidence


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


ANSWERS = st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=8)
NATS = st.floats(0, 20)


def test_margin_is_the_lead_over_the_best_other_answer() -> None:
    assert confidence.margin(["a", "a", "a", "b"], "a") == 0.5
    assert confidence.margin(["a", "a", "a", "b"], "b") == -0.5
    assert confidence.margin(["a", "a", "b", "b"], "a") == 0.0
    assert confidence.margin(["a", None, None, None], "a") == 0.25
    assert confidence.margin(["a", "a"], "a") == 1.0
    assert confidence.margin([None, None], None) == confidence.margin([], "a") == -1.0


def test_weighted_votes_are_the_likelihoods_of_those_that_gave_the_answer_among_all() -> None:
    nats = [math.log(2), math.log(4), 0.0, 0.0]
    assert confidence.weighted_votes(["a", "a", "b", None], nats, "a") == pytest.approx((0.5 + 0.25) / 4)
    assert confidence.weighted_votes(["a", "a"], [math.inf, math.nan], "a") == 0.0
    assert confidence.weighted_votes([None], [0.0], None) == confidence.weighted_votes([], [], "a") == 0.0


def test_semantic_entropy_is_that_of_the_shares_of_the_answers() -> None:
    assert confidence.semantic_entropy(["a", "a", "a"]) == 0.0
    assert confidence.semantic_entropy(["a", "a", "b", "b"]) == pytest.approx(math.log(2))
    assert confidence.semantic_entropy(["a", "b", None, None]) == pytest.approx(math.log(4))
    # a counts 1/2 and 1/4, b 1/4: shares 3/4 and 1/4.
    nats = [math.log(2), math.log(4), math.log(4)]
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert confidence.semantic_entropy(["a", "a", "b"], nats) == pytest.approx(expected)


@pytest.mark.parametrize("nats", [math.inf, math.nan])
def test_semantic_entropy_is_infinite_where_a_candidate_was_not_measured(nats: float) -> None:
    assert confidence.semantic_entropy(["a", "a"], [0.1, nats]) == math.inf
    assert confidence.semantic_entropy([]) == math.inf


@given(ANSWERS, st.data())
def test_measures_lie_in_their_ranges_and_unanimity_is_the_surest(
    answers: list[str | None], data: st.DataObject
) -> None:
    nats = data.draw(st.lists(NATS, min_size=len(answers), max_size=len(answers)))
    answer = data.draw(st.sampled_from([each for each in answers if each is not None] or [None]))
    agreement = confidence.agreement(answers, answer)
    assert -1.0 <= confidence.margin(answers, answer) <= agreement
    assert 0.0 <= confidence.weighted_votes(answers, nats, answer) <= agreement + 1e-12
    for spread in (confidence.semantic_entropy(answers), confidence.semantic_entropy(answers, nats)):
        assert 0.0 <= spread <= math.log(len(answers)) + 1e-9
        assert agreement < 1.0 or spread == 0.0
    assert confidence.semantic_entropy(answers, [1.0] * len(answers)) == pytest.approx(
        confidence.semantic_entropy(answers)
    )


@given(ANSWERS, st.data())
def test_the_order_of_the_candidates_does_not_matter(answers: list[str | None], data: st.DataObject) -> None:
    nats = data.draw(st.lists(NATS, min_size=len(answers), max_size=len(answers)))
    order = data.draw(st.permutations(range(len(answers))))
    moved, weights = [answers[i] for i in order], [nats[i] for i in order]
    assert confidence.margin(answers, "a") == confidence.margin(moved, "a")
    assert confidence.weighted_votes(answers, nats, "a") == confidence.weighted_votes(moved, weights, "a")
    assert confidence.semantic_entropy(answers, nats) == confidence.semantic_entropy(moved, weights)
