from __future__ import annotations

import math
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.proof.evidence import (
    Pairs,
    labels_needed,
    log_better,
    log_gain_above,
    log_gain_below,
    upper_bound,
    wins_needed,
)

ALPHA = 0.05
NODES, WEIGHTS = np.polynomial.legendre.leggauss(100)


def exact(wins: int, losses: int) -> Fraction:
    """E by its definition, as a fraction: the integral of 2 (2t)^W (2(1 - t))^L over t in (1/2, 1), term by term."""
    total = Fraction(0)
    for k in range(losses + 1):  # (1 - t)^L by the binomial theorem
        power = wins + k + 1
        integral = (1 - Fraction(1, 2**power)) / power
        total += (math.comb(losses, k) if k % 2 == 0 else -math.comb(losses, k)) * integral
    return total * (2 << (wins + losses))


@given(st.integers(0, 90), st.integers(0, 90))
def test_e_is_the_likelihood_ratio_averaged_over_win_rates_above_a_half(wins: int, losses: int) -> None:
    rates = 0.75 + NODES / 4
    integral = float(np.sum(WEIGHTS / 4 * 2 * (2 * rates) ** wins * (2 * (1 - rates)) ** losses))
    assert math.exp(log_better(wins, losses)) == pytest.approx(integral, rel=1e-9)


@given(st.integers(0, 40), st.integers(0, 40))
def test_e_is_exact(wins: int, losses: int) -> None:
    assert math.exp(log_better(wins, losses)) == pytest.approx(float(exact(wins, losses)), rel=1e-12)


def test_e_of_a_long_proof_does_not_overflow() -> None:
    assert 13_800 < log_better(20_000, 0) < 13_863
    assert -8 < log_better(2_000, 2_000) < -3


@pytest.mark.parametrize("rate", [Fraction(1, 2), Fraction(2, 5), Fraction(1, 10)])
def test_e_is_at_most_one_in_expectation_whenever_it_is_looked_at(rate: Fraction) -> None:
    for pairs in range(13):
        expected = sum(
            math.comb(pairs, wins) * rate**wins * (1 - rate) ** (pairs - wins) * exact(wins, pairs - wins)
            for wins in range(pairs + 1)
        )
        assert expected <= 1
        assert rate < Fraction(1, 2) or expected == 1


def test_e_never_rises_in_expectation_from_any_point_on() -> None:
    for wins in range(13):
        for losses in range(13 - wins):
            following = (exact(wins + 1, losses) + exact(wins, losses + 1)) / 2
            assert following == exact(wins, losses)


def test_the_chance_that_an_equal_candidate_is_ever_proved_better_is_below_alpha() -> None:
    """Counted over all ways of 400 pairs that differ, with a look after each."""
    needed = list(islice(wins_needed(ALPHA), 401))
    paths, proved = {0: 1.0}, 0.0
    for pairs in range(1, 401):
        following: dict[int, float] = {}
        for wins, chance in paths.items():
            for after in (wins, wins + 1):
                if after >= needed[pairs - after]:
                    proved += chance / 2
                else:
                    following[after] = following.get(after, 0.0) + chance / 2
        paths = following
    assert 0.02 < proved < ALPHA


def test_the_wins_that_are_needed_beside_few_losses() -> None:
    assert list(islice(wins_needed(ALPHA), 5)) == [7, 10, 12, 14, 16]
    for losses, wins in enumerate(islice(wins_needed(ALPHA), 30)):
        assert log_better(wins, losses) >= math.log(20) > log_better(wins - 1, losses)


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.3])
def test_the_wealth_is_one_in_expectation_at_its_margin(margin: float) -> None:
    """Over all ways of ten pairs of which six in ten differ."""
    wins, losses = (0.6 + margin) / 2, (0.6 - margin) / 2
    above = below = 0.0
    for won in range(11):
        for lost in range(11 - won):
            tied = 10 - won - lost
            ways = math.comb(10, won) * math.comb(10 - won, lost)
            chance = ways * wins**won * losses**lost * 0.4**tied
            above += chance * math.exp(log_gain_above(Pairs(won, lost, tied), margin))
            below += chance * math.exp(log_gain_below(Pairs(won, lost, tied), margin))
    assert (above, below) == pytest.approx((1.0, 1.0))


def test_the_wealth_is_the_average_of_bets() -> None:
    by_hand = sum(
        (1 + s * 0.9) ** 3 * (1 - s * 1.1) ** 2 * (1 - s * 0.1) ** 4 for s in (k / 21 / 1.1 for k in range(1, 21))
    )
    assert math.exp(log_gain_above(Pairs(3, 2, 4), 0.1)) == pytest.approx(by_hand / 20)


def test_equal_answers_to_many_labels_show_that_nothing_is_gained() -> None:
    assert log_gain_below(Pairs(0, 0, 20), 0.05) < math.log(20) < log_gain_below(Pairs(0, 0, 110), 0.05)
    assert log_gain_below(Pairs(20, 10, 70), 0.05) < 0


def test_labels_that_are_needed_go_on_as_the_labels_so_far() -> None:
    assert labels_needed(Pairs(7, 0, 13), ALPHA) == 0
    assert labels_needed(Pairs(6, 0, 14), ALPHA) == 4  # one win more, of which every third pair is one
    assert labels_needed(Pairs(5, 0, 15), ALPHA) == 8
    assert labels_needed(Pairs(3, 3, 14), ALPHA) is None
    assert labels_needed(Pairs(0, 0, 20), ALPHA) is None
    assert labels_needed(Pairs(1001, 1000, 0), ALPHA) is None


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 100))
def test_so_many_labels_are_enough_and_fewer_are_not(wins: int, losses: int, ties: int) -> None:
    pairs = Pairs(wins, losses, ties)
    needed = labels_needed(pairs, ALPHA)
    if not needed:
        assert (needed == 0) == (log_better(wins, losses) >= math.log(20))
        assert needed == 0 or wins <= losses or wins - losses < 0.1 * pairs.differ
        return
    more = math.floor(needed * pairs.differ / pairs.count)
    won = math.floor(more * wins / pairs.differ + 1e-9)
    assert log_better(wins + won, losses + more - won) >= math.log(20)


@pytest.mark.parametrize(("events", "trials", "bound"), [(0, 20, 0.1391), (3, 100, 0.0757), (20, 20, 1.0)])
def test_the_upper_bound_is_clopper_and_pearsons(events: int, trials: int, bound: float) -> None:
    assert upper_bound(events, trials, 0.95) == pytest.approx(bound, abs=5e-5)
