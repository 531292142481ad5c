from semievold.intake.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_backlog_is_said_when_it_begins_each_minute_and_when_it_ends() -> None:
    clock = Clock()
    pace = Pace(clock)
    said = {}
    for second in range(0, 181, 5):
        clock.now = float(second)
        pace.stored(4 if second < 150 else 0)
        waiting = max(0, 30_000 - second) if second < 150 else 0
        if (line := pace.line(waiting, 64)) is not None:
            said[second] = line
    assert said == {
        0: "30,000 queries are waiting",
        60: "48 answers a minute, 29,940 waiting",
        120: "48 answers a minute, 29,880 waiting",
        150: "no query is waiting any more",
    }


def test_a_trickle_that_is_answered_at_once_is_not_worth_a_line() -> None:
    clock = Clock()
    pace = Pace(clock)
    for second in range(600):
        clock.now = float(second)
        pace.stored(1)
        assert pace.line(second % 3, 64) is None
    assert pace.a_minute() == 60.0


def test_a_fleet_that_stands_still_says_so() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.line(100, 64)
    clock.now = 60.0
    assert pace.line(100, 64) == "0 answers a minute, 100 waiting"


def test_the_rate_is_that_of_the_last_minute_alone() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.stored(100)
    clock.now = 59.0
    assert pace.a_minute() == 100.0
    clock.now = 61.0
    assert pace.a_minute() == 0.0
