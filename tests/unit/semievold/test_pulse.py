from semievold.retry import Pulse


def test_a_loop_that_hangs_is_told_from_one_that_turns_or_rests() -> None:
    now = [0.0]
    pulse = Pulse("the intake", 60.0, lambda: now[0])
    now[0] = 1000.0
    assert pulse.stuck is None  # it has not begun
    pulse.beat()
    now[0] += 59.0
    assert pulse.stuck is None
    now[0] += 1.0
    assert pulse.stuck == "the intake has not moved for 60 s"
    pulse.beat()
    assert pulse.stuck is None
    pulse.rest()
    now[0] += 1000.0
    assert pulse.stuck is None
