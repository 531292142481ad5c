from dataclasses import replace

import pytest

from semievol.types import Completion, Message
from semievold.serving.attestation import (
    CAP,
    FLOORS,
    Answer,
    Attestation,
    FingerprintEntry,
    answered_by_all,
    attest,
    deviation,
    tolerance,
)

Tokens = tuple[tuple[int, ...], tuple[float, ...]]

TRAINED: list[Tokens] = [((5, 6, 7), (-0.1, -0.2, -0.3)), ((8, 9), (-0.5, -0.6))]
BASE: list[Tokens] = [((4, 6, 7), (-0.9, -0.8, -0.7)), ((3, 9), (-1.5, -1.6))]


def entries(margin: float = 1.0) -> list[FingerprintEntry]:
    return [
        FingerprintEntry(
            (Message("user", "red 1"),),
            Answer(*adapted, tuple(margin for _ in adapted[0])),
            Answer(*base, tuple(margin for _ in base[0])),
        )
        for adapted, base in zip(TRAINED, BASE, strict=True)
    ]


def answers(given: list[Tokens], shift: float = 0.0) -> list[Completion]:
    return [
        Completion("", tokens, tuple(logprob + shift for logprob in logprobs), "stop", None, 1)
        for tokens, logprobs in given
    ]


def judge(
    candidate: list[Completion], base: list[Completion] | None = None, incumbent: list[Completion] | None = None
) -> Attestation:
    return attest(entries(), candidate, answers(BASE) if base is None else base, incumbent, "bfloat16")


def test_the_trained_weights_pass() -> None:
    result = judge(answers(TRAINED, 0.01))
    assert result.passed
    assert result.deviation == pytest.approx(0.01)
    assert result.noise == 0.0


def test_other_weights_are_caught_with_their_distance() -> None:
    result = judge(answers([((5, 1, 2), (-0.9, -0.2, -0.3)), ((3, 9), (-0.5, -0.6))]))
    assert not result.passed
    assert "wrong weights: answers deviate by" in result.reason


def test_other_weights_are_caught_when_only_the_probabilities_tell_them() -> None:
    assert "wrong weights" in judge(answers(TRAINED, 2 * FLOORS["bfloat16"])).reason


def test_what_the_base_model_deviates_by_is_allowed_several_times_over() -> None:
    noisy = judge(answers(TRAINED, 0.1), base=answers(BASE, 0.03))
    assert noisy.passed
    assert noisy.tolerance == pytest.approx(0.12)
    assert not judge(answers(TRAINED, 0.1), base=answers(BASE, 0.001)).passed


def test_the_tolerance_has_a_floor_and_a_cap() -> None:
    assert tolerance("float32", 0.0) == FLOORS["float32"]
    assert tolerance("bfloat16", 10.0) == CAP


def test_another_base_model_is_named_as_such() -> None:
    result = judge(answers(TRAINED), base=answers(BASE, CAP + 0.05))
    assert not result.passed
    assert "another base model" in result.reason


def test_an_adapter_that_is_not_applied_is_caught() -> None:
    result = judge(answers(BASE))
    assert not result.passed
    assert "the adapter is not applied" in result.reason


def test_the_old_weights_under_the_new_name_are_caught_although_they_are_within_tolerance() -> None:
    near = answers(TRAINED, 0.02)
    assert judge(near).passed
    result = judge(near, incumbent=near)
    assert not result.passed
    assert "old weights" in result.reason


def test_weights_that_were_swapped_between_two_names_are_caught() -> None:
    result = judge(answers(TRAINED, 0.11), base=answers(BASE, 0.04), incumbent=answers(TRAINED, 0.01))
    assert not result.passed
    assert "the incumbent's answers are nearer" in result.reason


def test_without_a_fingerprint_nothing_is_proved() -> None:
    assert not attest([], [], [], None, "bfloat16").passed


def test_another_continuation_counts_one_nat_per_recorded_token() -> None:
    assert deviation([entry.adapted for entry in entries()], answers([((1,), (0.0,)), ((1,), (0.0,))]), 0.3) == 1.0


def test_a_shorter_answer_is_not_taken_for_the_same_one() -> None:
    given = answers([((5, 6), (-0.1, -0.2)), ((8, 9), (-0.5, -0.6))])
    assert deviation([entry.adapted for entry in entries()], given, 0.3) == 0.2


def test_where_two_tokens_were_as_good_as_equal_the_other_one_may_be_taken() -> None:
    other = answers([((5, 1, 2), (-0.1, -0.22, -3.0)), ((8, 9), (-0.5, -0.6))])
    assert deviation([entry.adapted for entry in entries(margin=0.01)], other, 0.3) == pytest.approx(0.02 / 4)
    assert deviation([entry.adapted for entry in entries(margin=1.0)], other, 0.3) == pytest.approx(2 / 5)


def test_a_fingerprint_without_the_base_models_answers_is_judged_by_precision_alone() -> None:
    old = [replace(entry, base=None) for entry in entries()]
    result = attest(old, answers(TRAINED, 0.09), answers(BASE), None, "bfloat16")
    assert result.passed
    assert result.noise is None


def test_a_prompt_that_is_refused_is_left_out_for_everybody_and_the_others_prove() -> None:
    candidate, base = (dict(enumerate(answers(given))) for given in (TRAINED, BASE))
    del base[0]
    expected, kept = answered_by_all(entries(), candidate, base, None)
    assert expected == entries()[1:]
    assert kept == [answers(TRAINED)[1:], answers(BASE)[1:], None]
    assert attest(expected, kept[0] or [], kept[1] or [], None, "bfloat16").passed
