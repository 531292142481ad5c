import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config.method import SelectionConfig
from semievol.errors import DataError
from semievol.labelling.selection import Scored, entropy_threshold, scored, select
from semievol.types import CandidateAnswer, PseudoLabel, Query

ENTROPIES = st.one_of(st.floats(0, 20), st.sampled_from([0.0, 0.5, 1.0, math.inf, math.nan]))


@st.composite
def pools(draw: st.DrawFn) -> list[Scored]:
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from([None, "a", "b"]), ENTROPIES, st.sampled_from([0.25, 0.5, 1.0])), max_size=30
        )
    )
    return [Scored(str(i), *row) for i, row in enumerate(rows)]


def by_entropy(*entropies: float) -> list[Scored]:
    return [Scored(str(i), "a", entropy, 1.0) for i, entropy in enumerate(entropies)]


def test_the_half_of_lowest_entropy_is_kept_at_theta_one_half() -> None:
    selection = select(by_entropy(0.4, 0.1, 0.3, 0.2), SelectionConfig(theta=0.5))
    assert selection.kept == ("1", "3")
    assert selection.threshold == 0.2
    assert selection.rejected == {"0": "entropy above threshold", "2": "entropy above threshold"}


def test_all_that_tie_with_the_threshold_are_kept() -> None:
    assert select(by_entropy(0.1, 0.2, 0.2, 0.2, 0.9), SelectionConfig(theta=0.4)).kept == ("0", "1", "2", "3")


def test_a_single_pseudo_label_is_kept() -> None:
    assert select(by_entropy(3.0), SelectionConfig(theta=0.01)).kept == ("0",)


def test_the_quantile_is_over_parseable_pseudo_labels_alone() -> None:
    unparseable = [Scored("x", None, 0.0, 0.0), Scored("y", None, 0.0, 0.0)]
    selection = select([*unparseable, *by_entropy(0.1, 0.2)], SelectionConfig(theta=0.5))
    assert selection.kept == ("0",)
    assert selection.rejected == {"x": "unparseable", "y": "unparseable", "1": "entropy above threshold"}


def test_low_agreement_is_rejected_whatever_the_entropy_but_counts_in_the_quantile() -> None:
    labels = [Scored("x", "a", 0.0, 0.25), *by_entropy(0.1, 0.2, 0.3)]
    selection = select(labels, SelectionConfig(theta=0.5, min_agreement=0.5))
    assert selection.kept == ("0",)
    assert selection.rejected["x"] == "low agreement"


def test_an_answer_that_no_candidate_gave_is_refused_for_that_reason() -> None:
    selection = select([Scored("x", "a", 0.0, 0.0), *by_entropy(0.1)], SelectionConfig(theta=1.0, min_agreement=0.5))
    assert selection.rejected == {"x": "low agreement: only the consensus gave this answer"}


def test_an_unanimous_answer_of_high_entropy_is_not_kept() -> None:
    assert "2" not in select(by_entropy(0.1, 0.2, 5.0), SelectionConfig(theta=0.5)).kept


@pytest.mark.parametrize("entropy", [math.nan, math.inf])
def test_what_has_no_finite_entropy_is_never_selected(entropy: float) -> None:
    for pool in ([entropy], [entropy, 0.1], [entropy, entropy]):
        selection = select(by_entropy(*pool), SelectionConfig(theta=1.0, min_agreement=0.0))
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


# --- by other measures than entropy ---------------------------------------------------------------------------------

MEASURES = ("entropy", "agreement", "margin", "semantic_entropy", "votes")
OTHERS = st.one_of(st.floats(0, 2), st.sampled_from([0.0, 1.0, math.inf, math.nan]))


def label(query_id: str, *candidates: tuple[str | None, float], answer: str = "a") -> PseudoLabel:
    """Labelled `answer`, whose entropy is that of its first candidate."""
    given_ = [each for each, _ in candidates]
    return PseudoLabel(
        query=Query(query_id, "?"),
        answer=answer,
        entropy=next(nats for each, nats in candidates if each == answer),
        agreement=given_.count(answer) / len(given_),
        confidence=0.5,
        justified=False,
        adapter=None,
        neighbours=(),
        candidates=tuple(CandidateAnswer("c", "t", each, nats) for each, nats in candidates),
    )


POOL = [
    label("sure alone", ("a", 0.0), ("b", 0.0), ("c", 0.0), ("d", 0.0)),
    label("half", ("a", 0.4), ("a", 0.4), ("b", 0.4), ("c", 0.4)),
    label("two sides", ("a", 0.1), ("a", 0.1), ("b", 0.1), ("b", 0.1)),
    label("unanimous", ("a", 2.0), ("a", 2.0), ("a", 2.0), ("a", 2.0)),
]


@pytest.mark.parametrize(
    ("by", "kept", "threshold"),
    [
        ("entropy", ("sure alone", "two sides"), 0.1),
        ("agreement", ("half", "two sides", "unanimous"), 0.5),
        ("margin", ("half", "unanimous"), 0.75),
        ("semantic_entropy", ("two sides", "unanimous"), math.log(2)),
        ("votes", ("half", "two sides"), 1 - math.exp(-0.4) / 2),
    ],
)
def test_each_measure_keeps_its_own_surest_half(by: str, kept: tuple[str, ...], threshold: float) -> None:
    config = SelectionConfig(by=by, theta=0.5, min_agreement=0.0)  # type: ignore[arg-type]
    selection = select([scored(each, config) for each in POOL], config)
    assert selection.kept == kept
    assert selection.threshold == pytest.approx(threshold)
    reason = "entropy above threshold" if by == "entropy" else "uncertainty above threshold"
    assert set(selection.rejected.values()) == {reason}


def test_by_entropy_nothing_else_is_measured() -> None:
    assert scored(POOL[1], SelectionConfig()) == Scored("half", "a", 0.4, 0.5, None)


def test_a_pick_that_another_answer_outvoted_is_the_least_sure_by_margin() -> None:
    config = SelectionConfig(by="margin", theta=0.5, min_agreement=0.0)
    outvoted = label("outvoted", ("a", 0.1), ("b", 0.1), ("b", 0.1), ("b", 0.1))
    selection = select([scored(each, config) for each in (outvoted, POOL[2])], config)
    assert selection.kept == ("two sides",)


@pytest.mark.parametrize("by", MEASURES)
@pytest.mark.parametrize("nats", [math.nan, math.inf])
def test_what_has_no_finite_entropy_is_selected_by_no_measure(by: str, nats: float) -> None:
    config = SelectionConfig(by=by, theta=1.0, min_agreement=0.0)  # type: ignore[arg-type]
    labels = [label("x", ("a", nats), ("a", 0.1)), label("y", ("a", 0.1), ("a", 0.1))]
    selection = select([scored(each, config) for each in labels], config)
    assert selection.kept == ("y",)


def test_an_entry_without_the_measure_is_named() -> None:
    with pytest.raises(DataError, match="has no votes to rank by; label the queries again"):
        select(by_entropy(0.1), SelectionConfig(by="votes"))


@given(pools(), st.data(), st.floats(0.01, 1), st.sampled_from([0.0, 0.5, 1.0]))
def test_by_any_measure_every_pseudo_label_is_kept_or_has_a_reason(
    pool: list[Scored], data: st.DataObject, theta: float, min_agreement: float
) -> None:
    measured = [each._replace(uncertainty=data.draw(OTHERS)) for each in pool]
    selection = select(measured, SelectionConfig(by="margin", theta=theta, min_agreement=min_agreement))
    assert sorted([*selection.kept, *selection.rejected]) == sorted(each.id for each in measured)
    by_id = {each.id: each for each in measured}
    for kept in map(by_id.__getitem__, selection.kept):
        assert kept.answer is not None
        assert math.isfinite(kept.entropy)
        assert kept.uncertainty is not None
        assert kept.uncertainty <= selection.threshold
        assert kept.agreement >= min_agreement
    sure = [each for each in measured if each.answer is not None and math.isfinite(each.entropy)]
    ranked = [each for each in sure if each.uncertainty is not None and math.isfinite(each.uncertainty)]
    if min_agreement == 0.0:
        assert len(selection.kept) >= theta * len(ranked) - 1e-9


@given(pools(), st.floats(0.01, 1))
def test_a_measure_equal_to_the_entropy_selects_as_entropy_does(pool: list[Scored], theta: float) -> None:
    measured = [each._replace(uncertainty=each.entropy) for each in pool]
    by_other = select(measured, SelectionConfig(by="votes", theta=theta))
    assert by_other.kept == select(pool, SelectionConfig(theta=theta)).kept


# --- theta: auto ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "thetas"), [("entropy", (0.5, 0.8, 0.8)), ("votes", (0.5, 0.8, 0.8)), ("consensus", (0.95, 0.95, 0.95))]
)
def test_theta_auto_is_of_the_measure_and_of_the_round(by: str, thetas: tuple[float, ...]) -> None:
    config = SelectionConfig(by=by, theta="auto")  # type: ignore[arg-type]
    assert tuple(config.of_evolve_round(number).theta for number in (1, 2, 7)) == thetas
    with pytest.raises(ValueError, match="of_evolve_round"):
        select([], config)


def test_theta_auto_by_learned_keeps_what_is_likelier_right_than_wrong() -> None:
    config = SelectionConfig(by="learned", theta="auto").of_evolve_round(1)
    chances = {"a": 0.1, "b": 0.5, "c": 0.4999, "d": 0.51, "e": 0.9}
    selection = select([Scored(key, "x", 1.0, 1.0, chance) for key, chance in chances.items()], config)
    assert selection.kept == ("a", "b", "c")
    assert (selection.threshold, selection.theta) == (0.5, 0.6)


def test_theta_auto_by_learned_keeps_nothing_of_a_pool_that_is_wrong() -> None:
    config = SelectionConfig(by="learned", theta="auto")
    selection = select([Scored("a", "x", 1.0, 1.0, 0.75), Scored("b", None, math.inf, 0.0, 1.0)], config)
    assert (selection.kept, selection.theta) == ((), 0.0)
