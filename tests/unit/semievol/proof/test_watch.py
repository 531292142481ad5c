from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.binomial import binomial_mass
from semievol.proof.watch import (
    ALARM,
    Concentration,
    accuracy_finding,
    first_breach,
    given_too_rarely,
    incumbent_bound,
    log_rate_above,
    paired_failures,
    rate_finding,
    slow_limit,
)

Answer = str | None
Joint = dict[tuple[Answer, Answer], float]
"""Probability of (the incumbent's answer, the candidate's)."""

GAINS_AS_MUCH_AS_ALLOWED: Joint = {("a", "a"): 0.35, ("b", "b"): 0.4, ("a", "b"): 0.15, ("b", "a"): 0.1}
SWAPS: Joint = {("a", "b"): 0.4, ("b", "a"): 0.4, ("a", "a"): 0.2}


def wealth(pairs: list[tuple[Answer, Answer]], *, allowed: dict[str, float] | None = None) -> float:
    watch = Concentration(allowed=allowed)
    for incumbent, candidate in pairs:
        watch.see(incumbent, candidate)
    return math.exp(watch.log_evidence)


def expected(joint: Joint, pairs: int, *, allowed: dict[str, float] | None = None) -> float:
    return sum(
        math.prod(joint[each] for each in found) * wealth(list(found), allowed=allowed)
        for found in itertools.product(joint, repeat=pairs)
    )


@pytest.mark.parametrize("pairs", range(7))
@pytest.mark.parametrize("joint", [GAINS_AS_MUCH_AS_ALLOWED, SWAPS])
def test_evidence_of_concentration_is_at_most_one_in_expectation(joint: Joint, pairs: int) -> None:
    assert expected(joint, pairs) <= 1 + 1e-12


def test_a_gain_of_what_was_given_too_rarely_is_no_evidence() -> None:
    mended: Joint = {("a", "a"): 0.3, ("b", "b"): 0.4, ("a", "b"): 0.3}
    assert expected(mended, 7) > 1.5
    assert expected(mended, 7, allowed={"b": 0.25}) <= 1 + 1e-12


def test_the_answer_is_chosen_before_the_pair_on_which_it_is_bet() -> None:
    watch = Concentration()
    watch.see("a", "b")
    assert watch.log_evidence == 0.0, "before the first pair nothing could be bet on"
    assert watch.answer == "b"
    watch.see("c", "b")
    assert watch.log_evidence > 0


@given(st.lists(st.tuples(*[st.sampled_from(["a", "b", "c", "d", None])] * 2), max_size=60))
def test_the_answer_is_the_first_of_those_that_gained_most(pairs: list[tuple[Answer, Answer]]) -> None:
    watch, gained = Concentration(), dict[str, int]()
    for incumbent, candidate in pairs:
        watch.see(incumbent, candidate)
        if incumbent != candidate:
            for answer, change in ((candidate, 1), (incumbent, -1)):
                if answer is not None:
                    gained[answer] = gained.get(answer, 0) + change
        first = max(gained, key=gained.__getitem__, default=None)
        assert watch.answer == (first if first is not None and gained[first] > 0 else None)


def test_an_adapter_that_gives_one_answer_to_everything_is_found_within_50_pairs() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        watch = Concentration()
        while not watch.finding().breach:
            watch.see(str(draw.integers(10)), "7")
        assert watch.pairs <= 50
        assert watch.finding().detail.startswith("'7' is the answer to ")


def test_two_versions_that_always_agree_give_no_evidence_however_few_answers_there_are() -> None:
    assert wealth([("yes", "yes")] * 500 + [("no", "no")]) == 1.0


def test_a_shift_of_the_traffic_gives_no_evidence() -> None:
    before, after = [("a", "a"), ("b", "b")] * 200, [("c", "c")] * 400
    assert wealth(before + after) == 1.0


def test_answers_that_do_not_parse_are_no_answer_that_takes_over() -> None:
    assert wealth([("a", None)] * 100) == 1.0


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from(["a", "b", None])), max_size=60))
def test_the_share_that_is_told_is_the_share_that_was_seen(pairs: list[tuple[Answer, Answer]]) -> None:
    watch = Concentration()
    for incumbent, candidate in pairs:
        watch.see(incumbent, candidate)
    if watch.answer is not None:
        now = sum(candidate == watch.answer for _, candidate in pairs)
        before = sum(incumbent == watch.answer for incumbent, _ in pairs)
        assert now > before
        told = f"{watch.answer!r} is the answer to {now} of {len(pairs)} queries, by the version before to {before}"
        assert watch.finding().detail == told


@pytest.mark.parametrize(("bound", "rate"), [(0.02, 0.02), (0.02, 0.01), (0.4, 0.4), (0.9, 0.85), (0.999, 0.999)])
def test_evidence_of_a_rate_is_at_most_one_in_expectation(bound: float, rate: float) -> None:
    for answers in (0, 1, 5, 60):
        total = math.fsum(
            binomial_mass(events, answers, rate) * math.exp(log_rate_above(events, answers, bound))
            for events in range(answers + 1)
        )
        assert total <= 1 + 1e-9


def test_a_version_before_which_nothing_is_known_of_is_no_measure() -> None:
    assert incumbent_bound(0, 0) == 1.0
    assert incumbent_bound(5, 5) == 1.0
    assert log_rate_above(40, 40, 1.0) == 0.0


def test_parse_failures_that_rise_from_1_to_10_percent_are_found_within_150_answers_mostly() -> None:
    draw = np.random.default_rng(1)
    bound = incumbent_bound(10, 1_000)
    found = 0
    for _ in range(100):
        failed = np.cumsum(draw.random(150) < 0.1)
        found += any(rate_finding("parse_failures", int(k), n, bound).breach for n, k in enumerate(failed, 1))
    assert found >= 80


def test_one_failure_after_a_faultless_past_is_no_breach() -> None:
    bound = incumbent_bound(0, 1_000)
    assert not rate_finding("errors", 1, 1, bound).breach
    assert not rate_finding("errors", 1, 50, bound).breach


def test_the_bound_of_slow_answers_holds_though_it_is_of_the_answers_that_set_the_limit() -> None:
    draw = np.random.default_rng(2)
    too_low = 0
    for _ in range(2_000):
        seconds = draw.random(200)  # uniform: the true share above the limit is 1 - limit
        limit = slow_limit(seconds.tolist())
        too_low += 1 - limit > incumbent_bound(int((seconds > limit).sum()), 200)
    assert too_low / 2_000 < 0.065


def test_from_few_answers_nothing_is_slow() -> None:
    assert slow_limit([0.1] * 19) == math.inf
    assert slow_limit([float(each) for each in range(1, 21)]) == 19.0


def test_what_the_incumbent_gives_too_rarely_is_what_labels_say_more_often() -> None:
    labelled = [("a", "a")] * 60 + [("b", "a")] * 20 + [("c", None)] * 10 + [("c", "d")] * 10
    assert given_too_rarely(labelled) == {"b": 0.2, "c": 0.2}
    assert given_too_rarely([]) == {}


def test_of_breaches_the_one_with_the_most_evidence_is_told() -> None:
    calm = accuracy_finding(3, 2, 10)
    assert first_breach([calm]) is None
    losses, failures = accuracy_finding(0, 40, 60), paired_failures(14, 0, 30)
    assert first_breach([calm, failures, losses]) is losses
    assert str(losses).startswith("accuracy: of 60 labels 40 are right by the version before alone, 0 by this one")


def test_the_evidence_of_a_long_watch_leaves_no_floats_range() -> None:
    watch = Concentration()
    for _ in range(5_000):
        watch.see("a", "b")
    assert watch.finding().evidence > ALARM
    assert math.isfinite(watch.finding().evidence)
    assert math.isfinite(rate_finding("errors", 9_000, 9_000, 0.01).evidence)
