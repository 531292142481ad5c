import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config import SelectionConfig
from semievol.selection import Scored, entropy_threshold, select

ENTROPIES = st.one_of(st.floats(0, 20), st.sampled_from([0.0, 0.5, 1.0, math.inf, math.nan]))


@st.composite
def pools(draw: st.DrawFn) -> list[Scored]:
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from([None, "a", "b"]), ENTROPIES, st.sampled_from([0.25, 0.5, 1.0])), max_size=30
        )
    )
    return [Scored(str(i), *row) for i, row in enumerate(rows)]


def scored(*entropies: float) -> list[Scored]:
    return [Scored(str(i), "a", entropy, 1.0) for i, entropy in enumerate(entropies)]


def test_the_half_of_lowest_entropy_is_kept_at_theta_one_half() -> None:
    selection = select(scored(0.4, 0.1, 0.3, 0.2), SelectionConfig(theta=0.5))
    assert selection.kept == ("1", "3")
    assert selection.threshold == 0.2
    assert selection.rejected == {"0": "entropy above threshold", "2": "entropy above threshold"}


def test_all_that_tie_with_the_threshold_are_kept() -> None:
    assert select(scored(0.1, 0.2, 0.2, 0.2, 0.9), SelectionConfig(theta=0.4)).kept == ("0", "1", "2", "3")


def test_a_single_pseudo_label_is_kept() -> None:
    assert select(scored(3.0), SelectionConfig(theta=0.01)).kept == ("0",)


def test_the_quantile_is_over_parseable_pseudo_labels_alone() -> None:
    unparseable = [Scored("x", None, 0.0, 0.0), Scored("y", None, 0.0, 0.0)]
    selection = select([*unparseable, *scored(0.1, 0.2)], SelectionConfig(theta=0.5))
    assert selection.kept == ("0",)
    assert selection.rejected == {"x": "unparseable", "y": "unparseable", "1": "entropy above threshold"}


def test_low_agreement_is_rejected_whatever_the_entropy_but_counts_in_the_quantile() -> None:
    labels = [Scored("x", "a", 0.0, 0.25), *scored(0.1, 0.2, 0.3)]
    selection = select(labels, SelectionConfig(theta=0.5, min_agreement=0.5))
    assert selection.kept == ("0",)
    assert selection.rejected["x"] == "low agreement"


def test_an_unanimous_answer_of_high_entropy_is_not_kept() -> None:
    assert "2" not in select(scored(0.1, 0.2, 5.0), SelectionConfig(theta=0.5)).kept


@pytest.mark.parametrize("entropy", [math.nan, math.inf])
def test_what_has_no_finite_entropy_is_never_selected(entropy: float) -> None:
    for pool in ([entropy], [entropy, 0.1], [entropy, entropy]):
        selection = select(scored(*pool), SelectionConfig(theta=1.0, min_agreement=0.0))
        assert "0" not in selection.kept
        assert selection.rejected["0"] == "entropy above threshold"


def test_an_empty_pool_selects_nothing() -> None:
    selection = select([], SelectionConfig())
    assert (selection.kept, dict(selection.rejected), selection.threshold) == ((), {}, 0.0)


def test_an_id_that_occurs_twice_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="ids must be unique"):
        select([Scored("x", "a", 0.1, 1.0), Scored("x", "b", 0.1, 1.0)], SelectionConfig())


@given(st.lists(st.floats(0, 20), min_size=1, max_size=50), st.floats(0.01, 1))
def test_the_threshold_is_the_smallest_entropy_with_the_share_theta_at_or_below_it(
    pool: list[float], theta: float
) -> None:
    threshold = entropy_threshold(pool, theta)
    assert threshold in pool

    def share(limit: float) -> float:
        return sum(entropy <= limit for entropy in pool) / len(pool)

    assert share(threshold) >= theta - 1e-9
    for lower in pool:
        if lower < threshold:
            assert share(lower) < theta + 1e-9


@given(pools(), st.floats(0.01, 1), st.sampled_from([0.0, 0.5, 1.0]))
def test_every_pseudo_label_is_kept_or_has_a_reason(pool: list[Scored], theta: float, min_agreement: float) -> None:
    selection = select(pool, SelectionConfig(theta=theta, min_agreement=min_agreement))
    assert sorted([*selection.kept, *selection.rejected]) == sorted(label.id for label in pool)
    by_id = {label.id: label for label in pool}
    for kept in map(by_id.__getitem__, selection.kept):
        assert kept.answer is not None
        assert kept.entropy <= selection.threshold
        assert kept.agreement >= min_agreement


@given(pools(), st.floats(0.01, 1), st.randoms(use_true_random=False))
def test_the_order_of_the_pool_does_not_matter(pool: list[Scored], theta: float, rng: random.Random) -> None:
    config = SelectionConfig(theta=theta)
    other = list(pool)
    rng.shuffle(other)
    assert set(select(pool, config).kept) == set(select(other, config).kept)


@given(pools(), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_higher_theta_never_drops_a_pseudo_label(pool: list[Scored], one: float, other: float) -> None:
    low, high = sorted((one, other))
    kept = select(pool, SelectionConfig(theta=low)).kept
    assert set(kept) <= set(select(pool, SelectionConfig(theta=high)).kept)
