from semievold.rounds.ages import Moment


class Clocks:
    """Two clocks: the wall's, which may be set, and one that only runs."""

    def __init__(self, wall: float) -> None:
        self.wall = wall
        self.running = 50.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.running += seconds

    def moment(self) -> Moment:
        return Moment(lambda: self.wall, lambda: self.running)


def test_an_age_is_that_of_the_clock_while_nobody_sets_it() -> None:
    clocks = Clocks(1000.0)
    moment = clocks.moment()
    assert moment.age_s(990.0) == 10.0
    clocks.pass_(5.0)
    assert moment.age_s(990.0) == 15.0


def test_a_clock_that_is_set_back_makes_nobody_wait_for_ever() -> None:
    clocks = Clocks(10_000.0)
    moment = clocks.moment()
    assert moment.age_s(9_999.0) == 1.0
    clocks.wall = 0.0
    assert moment.age_s(9_999.0) == 0.0
    clocks.pass_(7.0)
    assert moment.age_s(9_999.0) == 7.0


def test_a_moment_that_is_ahead_begins_to_age_when_it_is_first_seen() -> None:
    clocks = Clocks(0.0)
    moment = clocks.moment()
    assert moment.age_s(3600.0) == 0.0
    clocks.pass_(4.0)
    assert moment.age_s(3600.0) == 4.0
    assert moment.age_s(3700.0) == 0.0  # it happened again
