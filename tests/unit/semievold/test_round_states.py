from semievold.round_states import CANCELLABLE, ENDED, MAIN_PATH, RoundState, allowed


def test_the_main_path_is_walked_without_skipping_or_going_back() -> None:
    for place, state in enumerate(MAIN_PATH[:-1]):
        following = [target for target in MAIN_PATH if allowed(state, target)]
        assert following == [MAIN_PATH[place + 1]]


def test_an_ended_round_never_moves_again() -> None:
    assert not any(allowed(ended, target) for ended in ENDED for target in RoundState)


def test_only_the_gate_can_reject_and_only_it_and_a_canary_be_inconclusive() -> None:
    gate = [RoundState.LOADED, RoundState.PROVING]
    for exit_state, wanted in ((RoundState.REJECTED, gate), (RoundState.INCONCLUSIVE, [*gate, RoundState.CANARY])):
        assert [state for state in RoundState if allowed(state, exit_state)] == wanted


def test_a_round_whose_proof_is_not_complete_waits_between_its_attestation_and_its_promotion() -> None:
    assert [state for state in RoundState if allowed(state, RoundState.PROVING)] == [RoundState.ATTESTED]
    assert [state for state in MAIN_PATH if allowed(RoundState.PROVING, state)] == [RoundState.PROMOTED]
    assert RoundState.PROVING in CANCELLABLE


def test_a_canary_comes_after_the_proof_and_before_the_promotion_and_can_be_taken_back() -> None:
    before = [state for state in RoundState if allowed(state, RoundState.CANARY)]
    assert before == [RoundState.ATTESTED, RoundState.PROVING]
    assert [state for state in MAIN_PATH if allowed(RoundState.CANARY, state)] == [RoundState.PROMOTED]
    assert allowed(RoundState.CANARY, RoundState.ROLLED_BACK)
    assert RoundState.CANARY in CANCELLABLE


def test_a_promoted_round_can_be_rolled_back_but_not_cancelled() -> None:
    assert allowed(RoundState.PROMOTED, RoundState.ROLLED_BACK)
    assert RoundState.PROMOTED not in CANCELLABLE
    assert not allowed(RoundState.PROMOTED, RoundState.CANCELLED)
