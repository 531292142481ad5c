from daemon.attestation import FingerprintEntry, attest, deviation
from semievol.types import Completion

TRAINED = [FingerprintEntry((5, 6, 7), (-0.1, -0.2, -0.3)), FingerprintEntry((8, 9), (-0.5, -0.6))]


def answers(*given: tuple[tuple[int, ...], tuple[float, ...]]) -> list[Completion]:
    return [Completion("", tokens, logprobs, "stop", None, 1) for tokens, logprobs in given]


SAME = answers(((5, 6, 7), (-0.11, -0.2, -0.3)), ((8, 9), (-0.5, -0.61)))
OTHER = answers(((5, 1, 2), (-0.9, -0.2, -0.3)), ((3, 9), (-0.5, -0.6)))


def test_the_trained_weights_pass() -> None:
    result = attest(TRAINED, SAME, base=OTHER, incumbent=OTHER, tolerance=0.1)
    assert result.passed
    assert result.deviation < 0.01


def test_other_weights_are_caught_with_their_distance() -> None:
    result = attest(TRAINED, OTHER, base=SAME, incumbent=None, tolerance=0.1)
    assert not result.passed
    assert "deviate by" in result.reason


def test_an_adapter_that_is_not_applied_is_caught_although_it_is_within_tolerance() -> None:
    result = attest(TRAINED, SAME, base=SAME, incumbent=OTHER, tolerance=0.1)
    assert not result.passed
    assert "base model" in result.reason


def test_the_old_weights_under_the_new_name_are_caught() -> None:
    result = attest(TRAINED, SAME, base=OTHER, incumbent=SAME, tolerance=0.1)
    assert not result.passed
    assert "incumbent" in result.reason


def test_another_continuation_counts_one_nat_per_recorded_token() -> None:
    assert deviation(TRAINED, answers(((1,), (0.0,)), ((1,), (0.0,)))) == 1.0


def test_a_shorter_answer_is_not_taken_for_the_same_one() -> None:
    assert deviation(TRAINED, answers(((5, 6), (-0.1, -0.2)), ((8, 9), (-0.5, -0.6)))) == 0.2
