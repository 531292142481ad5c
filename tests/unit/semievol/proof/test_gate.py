import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config.method import GateConfig
from semievol.proof.gate import binomial_tail, decide
from semievol.types import Outcome

CONFIG = GateConfig(alpha=0.05, min_holdout=5, min_slice=5)


def outcomes(correct: str, categories: str | None = None, expected: str = "a") -> list[Outcome]:
    """One outcome a character, `1` for a right answer."""
    return [
        Outcome(str(i), expected, "a" if c == "1" else None, c == "1", 0.1, categories[i] if categories else None)
        for i, c in enumerate(correct)
    ]


def test_significantly_more_wins_promote() -> None:
    result = decide(outcomes("0000011111"), outcomes("1111111111"), CONFIG)
    assert result.decision == "promote"
    assert (result.wins, result.losses, result.p_better) == (5, 0, 1 / 32)
    assert (result.incumbent_accuracy, result.candidate_accuracy, result.count) == (0.5, 1.0, 10)
    assert result.reason == "significantly better: 5 wins, 0 losses, p = 0.031"


def test_significantly_more_losses_reject() -> None:
    result = decide(outcomes("1111111111"), outcomes("0000011111"), CONFIG)
    assert result.decision == "reject"
    assert result.p_worse == 1 / 32
    assert "significantly worse" in result.reason


def test_a_gain_that_may_be_luck_is_inconclusive() -> None:
    result = decide(outcomes("000011111"), outcomes("111111111"), CONFIG)
    assert result.decision == "inconclusive"
    assert result.p_better == 1 / 16


def test_equal_models_are_inconclusive() -> None:
    result = decide(outcomes("0101010101"), outcomes("0101010101"), CONFIG)
    assert (result.decision, result.p_better, result.p_worse) == ("inconclusive", 1.0, 1.0)


def test_a_category_that_drops_rejects_a_better_candidate() -> None:
    incumbent = outcomes("0" * 20 + "11111", "a" * 20 + "b" * 5)
    candidate = outcomes("1" * 20 + "11100", "a" * 20 + "b" * 5)
    result = decide(incumbent, candidate, CONFIG)
    assert result.decision == "reject"
    assert result.reason == "category 'b' drops from 1.000 to 0.600 (5 examples)"
    assert [(part.category, part.count, part.decides) for part in result.slices] == [("a", 20, True), ("b", 5, True)]


def test_a_category_that_is_too_small_is_reported_and_does_not_decide() -> None:
    incumbent = outcomes("0" * 20 + "1111", "a" * 20 + "b" * 4)
    candidate = outcomes("1" * 20 + "0000", "a" * 20 + "b" * 4)
    result = decide(incumbent, candidate, CONFIG)
    assert result.decision == "promote"
    assert result.slices[1].drop == 1.0


@pytest.mark.parametrize(
    ("incumbent", "candidate", "reason"),
    [
        ([], [], "0 held-out examples, fewer than gate.min_holdout"),
        (outcomes("0000"), outcomes("1111"), "4 held-out examples, fewer"),
        (outcomes("0" * 9), outcomes("1" * 10), "1 held-out examples were answered by one model only"),
        (outcomes("0" * 10), [], "10 held-out examples were answered by one model only"),
        (outcomes("0" * 10), [*outcomes("1" * 10), *outcomes("1")], "the same example twice"),
        (outcomes("0" * 10), outcomes("1" * 10, expected="b"), "true answer of a held-out example changed"),
    ],
)
def test_missing_or_contradictory_data_is_inconclusive(
    incumbent: list[Outcome], candidate: list[Outcome], reason: str
) -> None:
    result = decide(incumbent, candidate, CONFIG)
    assert result.decision == "inconclusive"
    assert reason in result.reason


def test_the_order_of_the_outcomes_does_not_matter() -> None:
    incumbent, candidate = outcomes("0000011111"), outcomes("1111101111")
    assert decide(incumbent, candidate[::-1], CONFIG) == decide(incumbent, candidate, CONFIG)


@given(st.integers(0, 12), st.integers(0, 12))
def test_the_tail_is_what_counting_all_coin_tosses_gives(successes: int, trials: int) -> None:
    tosses = list(itertools.product((0, 1), repeat=trials))
    assert binomial_tail(successes, trials) == sum(sum(toss) >= successes for toss in tosses) / len(tosses)


def test_the_tail_is_exact_for_thousands_of_examples() -> None:
    assert binomial_tail(0, 5_000) == 1.0
    assert 0.49 < binomial_tail(2_500, 5_000) - 0.005 < 0.51
    assert 1e-47 < binomial_tail(3_000, 5_000) < 1e-43


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=40))
def test_swapping_the_models_swaps_the_evidence(pairs: list[tuple[bool, bool]]) -> None:
    old = outcomes("".join(str(int(a)) for a, _ in pairs))
    new = outcomes("".join(str(int(b)) for _, b in pairs))
    there, back = decide(old, new, CONFIG), decide(new, old, CONFIG)
    assert (there.wins, there.p_better) == (back.losses, back.p_worse)
    assert {there.decision, back.decision} in ({"promote", "reject"}, {"inconclusive"})
