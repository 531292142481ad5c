import math
import random
from fractions import Fraction
from itertools import accumulate
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.binomial import binomial_cdf
from semievol.config.method import RiskConfig, SelectionConfig, TaskConfig
from semievol.labelling.certificate import Judged, certify, ids_hash, least_labels, most_errors
from semievol.labelling.selection import NOT_CERTIFIED, Scored, judge_calibration, select_at_risk
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.types import Example, PseudoLabel, Query


@given(trials=st.integers(1, 60), probability=st.sampled_from([0.02, 0.05, 0.1, 0.5]), data=st.data())
def test_the_distribution_equals_that_in_fractions(trials: int, probability: float, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    exact, p = Fraction(0), Fraction(probability)
    for k in range(successes + 1):
        exact += comb(trials, k) * p**k * (1 - p) ** (trials - k)
    assert binomial_cdf(successes, trials, probability) == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize(("budget", "labels"), [(0.02, 149), (0.05, 59), (0.1, 29)])
def test_so_many_labels_without_an_error_are_the_least(budget: float, labels: int) -> None:
    assert least_labels(0, budget, 0.95) == labels
    assert (most_errors(labels, budget, 0.95), most_errors(labels - 1, budget, 0.95)) == (0, -1)


@given(trials=st.integers(0, 2000), budget=st.sampled_from([0.02, 0.05, 0.1]))
def test_the_errors_that_are_forgiven_are_the_most_that_the_test_lets_pass(trials: int, budget: float) -> None:
    allowed = most_errors(trials, budget, 0.95)
    assert allowed < 0 or binomial_cdf(allowed, trials, budget) <= 0.05 + 1e-9
    assert binomial_cdf(allowed + 1, trials, budget) > 0.05 - 1e-9


def population(size: int, wrong: float, seed: int = 0) -> list[Judged]:
    """Ranks uniform in [0, 1]; the chance to be wrong rises with the cube of the rank, and is `wrong` on the mean."""
    drawn = random.Random(seed)
    ranks = [drawn.random() for _ in range(size)]
    return [Judged(f"c{i}", rank, drawn.random() < 4 * wrong * rank**3) for i, rank in enumerate(ranks)]


POOL = [place / 200 for place in range(200)]


def test_the_budget_is_kept_in_nearly_all_draws_and_broken_by_a_plain_threshold_in_many() -> None:
    broken = plain = certified = 0
    for seed in range(200):
        sample = population(300, 0.1, seed)
        found = certify(POOL, sample, RiskConfig(budget=0.05))
        certified += found.certified
        broken += 0.1 * (found.threshold or 0.0) ** 3 > 0.05  # the error below t is the mean of 0.4 r^3, 0.1 t^3
        right = sorted(sample, key=lambda each: each.rank)
        errors = list(accumulate(each.wrong for each in right))
        loosest = max((right[n].rank for n in range(300) if errors[n] <= 0.05 * (n + 1)), default=0.0)
        plain += 0.1 * loosest**3 > 0.05
    assert certified > 160
    assert broken <= 14
    assert plain > 60


def test_on_average_more_is_selected_and_the_mean_error_is_within_the_budget() -> None:
    strict, loose = RiskConfig(budget=0.05), RiskConfig(budget=0.05, on_average=True)
    errors, more = [], 0
    for seed in range(60):
        sample = population(150, 0.1, seed)
        found, sure = certify(POOL, sample, loose), certify(POOL, sample, strict)
        errors.append(0.1 * (found.threshold or 0.0) ** 3)
        more += found.coverage > sure.coverage
    assert sum(errors) / len(errors) <= 0.05
    assert more > 45
    assert found.confidence is None
    assert found.rule == "conformal"


def test_a_certificate_names_its_evidence() -> None:
    sample = [Judged(f"c{i}", i / 100, False) for i in range(100)]
    found = certify(POOL, sample, RiskConfig())
    assert (found.rule, found.budget, found.confidence) == ("learn_then_test", 0.05, 0.95)
    assert (found.labels, found.certain, found.errors, found.missing) == (100, 100, 0, 0)
    assert found.threshold == POOL[-1]
    assert found.coverage == 1.0
    assert found.coverage_at_least == pytest.approx(1 - math.sqrt(math.log(20) / 400))
    assert found.calibration_sha256 == ids_hash(reversed([each.id for each in sample]))


def test_too_few_labels_certify_nothing_and_say_how_many_are_missing() -> None:
    found = certify(POOL, [Judged(f"c{i}", i / 31, False) for i in range(31)], RiskConfig())
    assert not found.certified
    assert found.threshold is None
    assert found.needed is not None
    assert found.needed >= 59
    assert found.missing == found.needed - 31
    assert f"{found.needed} calibration labels needed, 31 there: {found.missing} more" in found.reason
    assert "59 without an error would do" in found.reason


def test_where_labels_are_mostly_wrong_no_number_is_promised() -> None:
    found = certify(POOL, [Judged(f"c{i}", i / 200, i % 2 == 0) for i in range(200)], RiskConfig())
    assert (found.certified, found.needed, found.missing) == (False, None, None)
    assert "add labels, label better, or raise selection.risk.budget" in found.reason


def test_without_calibration_labels_or_without_a_pool_nothing_is_certified() -> None:
    for config in (RiskConfig(), RiskConfig(on_average=True)):
        assert not certify(POOL, [], config).certified
        assert not certify([], population(500, 0.0), config).certified
        assert not certify([math.inf] * 5, population(500, 0.0), config).certified


@given(seed=st.integers(0, 10_000), on_average=st.booleans())
def test_what_is_certified_does_not_depend_on_the_order_of_labels_or_pool(seed: int, on_average: bool) -> None:
    sample, pool = population(150, 0.02, seed), list(POOL)
    config = RiskConfig(on_average=on_average)
    found = certify(pool, sample, config)
    drawn = random.Random(seed)
    drawn.shuffle(sample)
    drawn.shuffle(pool)
    assert certify(pool, sample, config) == found


RISK = SelectionConfig(risk=RiskConfig())


def test_selection_at_a_risk_keeps_what_the_certified_threshold_lets_pass() -> None:
    sample = [Judged(f"c{i}", i / 200, i > 100) for i in range(200)]
    labels = [Scored(f"q{i:03d}", "a", i / 100, 1.0) for i in range(100)]
    labels += [Scored("x", None, 0.0, 0.0), Scored("y", "a", 0.0, 0.25)]
    found = select_at_risk(labels, sample, RISK)
    assert found.certificate is not None
    assert found.threshold == found.certificate.threshold
    assert 0.3 < found.threshold <= 0.52
    assert found.kept == tuple(f"q{i:03d}" for i in range(round(found.threshold * 100) + 1))
    assert (found.rejected["x"], found.rejected["y"]) == ("unparseable", "low agreement")
    assert found.rejected["q099"] == "entropy above threshold"


def test_selection_at_a_risk_that_nothing_certifies_keeps_nothing_and_says_so() -> None:
    labels = [Scored("q", "a", 0.1, 1.0), Scored("x", None, 0.0, 0.0)]
    found = select_at_risk(labels, [], RISK)
    assert found.kept == ()
    assert found.rejected == {"q": NOT_CERTIFIED, "x": "unparseable"}


def test_calibration_examples_are_judged_by_their_truth_and_ranked_as_the_pool_is() -> None:
    def label(key: str, answer: str | None, agreement: float) -> PseudoLabel:
        return PseudoLabel(Query(key, key), answer, 0.5, agreement, 0.5, False, None, (), ())

    labels = [label("a", "yes", 1.0), label("b", "no", 1.0), label("c", None, 0.0), label("d", "yes", 0.2)]
    truth = {key: Example(Query(key, key), "yes") for key in "abcd"}
    judged = judge_calibration([*labels, label("e", "yes", 1.0)], truth, AnswerEquality(Task(TaskConfig())), RISK)
    assert judged == [
        Judged("a", 0.5, False),
        Judged("b", 0.5, True),
        Judged("c", math.inf, True),
        Judged("d", math.inf, False),
    ]


def test_the_papers_rule_and_a_stated_risk_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="theta: is the paper's rule"):
        SelectionConfig(theta=0.3, risk=RiskConfig())
