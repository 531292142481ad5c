from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from semievol.config.method import SequentialGateConfig
from semievol.proof.evidence import Pairs, log_better, log_gain_above, log_mean_above
from semievol.proof.sequential import prove
from semievol.types import Outcome

CONFIG = SequentialGateConfig(min_holdout=5, min_slice=5)


def outcomes(correct: str, categories: str | None = None) -> list[Outcome]:
    """One outcome a character: `1` a right answer, `0` a wrong one, `-` one that does not parse."""
    return [
        Outcome(
            str(i),
            "a",
            {"1": "a", "0": "b", "-": None}[c],
            c == "1",
            0.1,
            None if categories is None else categories[i],
        )
        for i, c in enumerate(correct)
    ]


def test_seven_wins_without_a_loss_promote() -> None:
    verdict = prove(outcomes("0000000111"), outcomes("1111111111"), CONFIG)
    assert (verdict.decision, verdict.is_open, verdict.labels_needed) == ("promote", False, 0)
    assert verdict.reason == "significantly better: 7 wins, 0 losses, evidence 31.9 of 20"
    assert verdict.better == pytest.approx(255 / 8)
    assert verdict.p_better == pytest.approx(8 / 255)
    assert (verdict.incumbent_accuracy, verdict.candidate_accuracy, verdict.count) == (0.3, 1.0, 10)


def test_six_wins_stay_open_and_say_how_many_labels_are_needed() -> None:
    verdict = prove(outcomes("0000001111"), outcomes("1111111111"), CONFIG)
    assert (verdict.decision, verdict.is_open, verdict.labels_needed) == ("inconclusive", True, 2)
    assert verdict.reason == (
        "no significant difference: 6 wins, 0 losses, evidence 18.1 of 20; "
        "about 2 more labels at the present rate of disagreement"
    )


def test_seven_losses_without_a_win_reject() -> None:
    verdict = prove(outcomes("1111111111"), outcomes("0000000111"), CONFIG)
    assert (verdict.decision, verdict.is_open) == ("reject", False)
    assert verdict.reason == "significantly worse: 0 wins, 7 losses, evidence 31.9 of 20"


def test_a_gain_that_was_proved_earlier_stands_until_something_speaks_against_promoting() -> None:
    fell = prove(outcomes("00000001"), outcomes("11111110"), CONFIG, proved=True)
    assert (fell.decision, fell.is_open, fell.held_back) == ("promote", False, False)
    assert fell.reason == (
        "significantly better at an earlier look, which stands: 7 wins, 1 losses, evidence 6.97 of 20"
    )
    assert prove(outcomes("1111111111"), outcomes("0000000111"), CONFIG, proved=True).decision == "reject"
    dropped = prove(
        outcomes("0" * 7 + "11111", "a" * 7 + "b" * 5), outcomes("1" * 10 + "00", "a" * 7 + "b" * 5), CONFIG
    )
    assert not dropped.held_back
    dropped = prove(
        outcomes("0" * 7 + "11111", "a" * 7 + "b" * 5),
        outcomes("1" * 10 + "00", "a" * 7 + "b" * 5),
        CONFIG,
        proved=True,
    )
    assert (dropped.decision, dropped.is_open, dropped.held_back) == ("inconclusive", True, True)


def test_labels_without_any_difference_end_the_hope_of_a_gain() -> None:
    assert prove(outcomes("1" * 80), outcomes("1" * 80), CONFIG).is_open
    verdict = prove(outcomes("1" * 110), outcomes("1" * 110), CONFIG)
    assert (verdict.decision, verdict.is_open) == ("inconclusive", False)
    assert verdict.reason == "no gain of 5% or more: 0 wins, 0 losses, evidence 1 of 20 among 110 labels"


@pytest.mark.parametrize(
    ("incumbent", "candidate", "reason"),
    [
        ([], [], "0 held-out examples, fewer than gate.min_holdout"),
        (outcomes("0000"), outcomes("1111"), "4 held-out examples, fewer"),
        (outcomes("0" * 9), outcomes("1" * 10), "1 held-out examples were answered by one model only"),
        (outcomes("0" * 10), [*outcomes("1" * 10), *outcomes("1")], "the same example twice"),
    ],
)
def test_missing_or_contradictory_data_never_promote_and_labels_may_mend_them(
    incumbent: list[Outcome], candidate: list[Outcome], reason: str
) -> None:
    verdict = prove(incumbent, candidate, CONFIG)
    assert (verdict.decision, verdict.is_open) == ("inconclusive", True)
    assert reason in verdict.reason


def test_a_category_that_is_shown_to_drop_rejects_a_better_candidate() -> None:
    categories = "a" * 30 + "b" * 10
    verdict = prove(outcomes("0" * 30 + "1" * 10, categories), outcomes("1" * 30 + "0" * 10, categories), CONFIG)
    assert verdict.decision == "reject"
    assert verdict.reason == "category 'b' drops from 1.000 to 0.000 (10 examples)"


def test_a_category_that_seems_to_drop_holds_a_better_candidate_back_until_more_labels_of_it() -> None:
    categories = "a" * 30 + "b" * 5
    verdict = prove(outcomes("0" * 30 + "11111", categories), outcomes("1" * 30 + "11100", categories), CONFIG)
    assert (verdict.decision, verdict.is_open, verdict.held_back) == ("inconclusive", True, True)
    assert verdict.reason.endswith(", but category 'b' drops from 1.000 to 0.600 (5 examples)")
    categories += "b" * 10
    again = prove(
        outcomes("0" * 30 + "1" * 15, categories), outcomes("1" * 30 + "11100" + "1" * 10, categories), CONFIG
    )
    assert again.decision == "promote"


def test_answers_that_do_not_parse_hold_a_better_candidate_back_beyond_the_incumbents_bound() -> None:
    wins = "0" * 16
    allowed = prove(outcomes(wins + "0000"), outcomes("1" * 16 + "00--"), CONFIG)
    assert (allowed.decision, allowed.candidate_unparsed) == ("promote", 2)
    verdict = prove(outcomes(wins + "0000"), outcomes("1" * 16 + "----"), CONFIG)
    assert (verdict.decision, verdict.held_back) == ("inconclusive", True)
    assert verdict.reason.endswith(", but 4 of 20 answers do not parse (bound by the incumbent's 0: 13.9%)")
    shown = prove(outcomes(wins + "0" * 9), outcomes("1" * 16 + "-" * 9), CONFIG)
    assert (shown.decision, shown.held_back) == ("reject", False)
    assert shown.reason == "significantly more answers that do not parse: 9 that the incumbent's do, 0 the reverse"


def sure(entropies: str, correct: str) -> list[Outcome]:
    """`s`: as good as sure, `u`: unsure."""
    return [
        replace(outcome, entropy={"s": 0.001, "u": 1.2}[how])
        for outcome, how in zip(outcomes(correct), entropies, strict=True)
    ]


def test_a_candidate_that_is_surer_of_wrong_answers_is_rejected_where_that_is_asked() -> None:
    asked = CONFIG.model_copy(update={"max_brier_rise": 0.1})
    unsure, certain = sure("u" * 180, "1" * 60 + "0" * 120), sure("s" * 180, "1" * 90 + "0" * 90)
    assert prove(unsure, certain, CONFIG).decision == "promote"
    verdict = prove(unsure, certain, asked)
    assert (verdict.decision, verdict.is_open) == ("reject", False)
    assert verdict.reason == (
        "surer of wrong answers: the squared error of its confidence (Brier score) is 0.50, the incumbent's 0.22 "
        "(gate.max_brier_rise is 0.1)"
    )
    knows_when = sure("s" * 90 + "u" * 90, "1" * 90 + "0" * 90)
    assert prove(unsure, knows_when, asked).decision == "promote"


@given(st.lists(st.sampled_from([-1.0, -0.4, 0.1, 0.5, 1.0]), max_size=6))
def test_the_evidence_for_a_mean_is_that_for_a_gain_where_values_are_wins_losses_and_ties(values: list[float]) -> None:
    whole = [float(round(value)) for value in values]
    pairs = Pairs(whole.count(1.0), whole.count(-1.0), whole.count(0.0))
    assert log_mean_above(whole, 0.05) == pytest.approx(log_gain_above(pairs, 0.05))
    # One more value leaves the mean of the evidence as it is where the value's own mean is the margin: a martingale.
    more = [math.exp(log_mean_above([*values, each], 0.1)) for each in (1.0, -0.8)]
    assert sum(more) / 2 == pytest.approx(math.exp(log_mean_above(values, 0.1)))


def test_an_incumbent_whose_answers_do_not_parse_holds_nobody_back() -> None:
    assert prove(outcomes("-" * 20), outcomes("1" * 10 + "-" * 10), CONFIG).decision == "promote"


def test_a_candidate_that_is_shown_worse_than_the_anchor_is_rejected() -> None:
    incumbent, candidate = outcomes("0" * 20 + "1" * 10), outcomes("1" * 20 + "0" * 0 + "1" * 2 + "0" * 8)
    beaten = ("old", outcomes("1" * 30)[22:])
    equal = ("old", outcomes("1" * 22 + "0" * 8))
    verdict = prove(incumbent, candidate, CONFIG, beaten)
    assert verdict.decision == "reject"
    assert verdict.reason == "significantly worse than the anchor old: 0 wins, 8 losses, evidence 56.8 of 20"
    assert verdict.anchor is not None
    assert verdict.anchor.count == 8
    unhurt = outcomes("1" * 30)
    assert prove(incumbent, unhurt, CONFIG, equal).decision == "promote"
    assert prove(incumbent, unhurt, CONFIG, ("old", [])).decision == "promote"


def test_a_gain_has_to_exceed_the_margin() -> None:
    config = SequentialGateConfig(min_holdout=5, margin=0.2, least_gain=0.25)
    incumbent, candidate = outcomes("0" * 10 + "1" * 40), outcomes("1" * 50)
    assert prove(incumbent, candidate, CONFIG).decision == "promote"
    verdict = prove(incumbent, candidate, config)
    assert (verdict.decision, verdict.is_open) == ("inconclusive", True)
    assert verdict.reason.endswith("; a gain of more than 20% is needed")
    assert prove(outcomes("0" * 50), outcomes("1" * 50), config).decision == "promote"


def test_a_margin_above_what_is_worth_waiting_for_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"least_gain: 0\.05 is below gate\.margin"):
        SequentialGateConfig(margin=0.1)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=60))
def test_the_verdict_is_a_function_of_the_counts_and_mirrored_by_exchanging_the_models(
    pairs: list[tuple[bool, bool]],
) -> None:
    old = outcomes("".join(str(int(a)) for a, _ in pairs))
    new = outcomes("".join(str(int(b)) for _, b in pairs))
    there, back = prove(old, new, CONFIG), prove(new, old, CONFIG)
    assert (there.wins, there.better, there.p_better) == (back.losses, back.worse, back.p_worse)
    assert there == prove(old[::-1], new, CONFIG)
    assert (there.decision == "promote") == (log_better(there.wins, there.losses) >= math.log(20))
    assert {there.decision, back.decision} in ({"promote", "reject"}, {"inconclusive"})


def test_labels_drawn_among_differing_answers_say_who_is_right_and_nothing_of_all_queries() -> None:
    config = SequentialGateConfig(min_holdout=5, min_slice=5)
    drawn = [Outcome(f"d{n}", "a", "a", True, 0.1, "c") for n in range(10)]
    # Three wins of the candidate, which elsewhere answers nothing at all, and is wrong in a category of its own.
    chosen = [Outcome(f"c{n}", "a", "b" if n < 8 else "a", n >= 8, 0.1, "d") for n in range(16)]
    theirs = [Outcome(f"c{n}", "a", "a" if n < 8 else None, n < 8, 0.1, "d") for n in range(16)]
    ids = {outcome.id for outcome in chosen}
    verdict = prove([*drawn, *chosen], [*drawn, *theirs], config, chosen=ids)
    assert (verdict.count, verdict.wins, verdict.losses) == (26, 8, 8)
    assert (verdict.incumbent_accuracy, verdict.candidate_accuracy) == (1.0, 1.0)
    assert (verdict.incumbent_unparsed, verdict.candidate_unparsed) == (0, 0)
    assert [part.category for part in verdict.slices] == ["c"]
    assert prove([*drawn, *chosen], [*drawn, *theirs], config).candidate_unparsed == 8
    won = [Outcome(each.id, "a", "a", True, 0.1, "d") for each in chosen[:8]]
    assert prove([*drawn, *chosen[:8]], [*drawn, *won], config, chosen=ids).decision == "promote"
