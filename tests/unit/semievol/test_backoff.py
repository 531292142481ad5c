"""Waits that double, end, are drawn and are kept; calls that are tried again until they return or time is up."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from semievol.backoff import Backoff
from semievol.errors import DataError, TransientError
from semievol.http.errors import BusyError


class Clock:
    """Time that passes by what waits, and by what each call takes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        self.wait(seconds)


class Failing:
    """Fails with the errors in turn, each after `takes_s`, then returns."""

    def __init__(self, clock: Clock, *errors: BaseException, takes_s: float = 0.0) -> None:
        self.clock, self.errors, self.takes_s = clock, list(errors), takes_s
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        self.clock.now += self.takes_s
        if self.errors:
            raise self.errors.pop(0)
        return "here"


Call = Callable[..., str]


@pytest.fixture(params=["waiting", "blocking"])
def call(request: pytest.FixtureRequest) -> Call:
    def waiting(backoff: Backoff, failing: Failing, **options: Any) -> str:
        async def operation() -> str:
            return failing()

        clock = failing.clock
        return asyncio.run(backoff.call(operation, sleep=clock.sleep, clock=clock, **options))

    def blocking(backoff: Backoff, failing: Failing, **options: Any) -> str:
        return backoff.call_blocking(failing, sleep=failing.clock.wait, clock=failing.clock, **options)

    return waiting if request.param == "waiting" else blocking


def away(times: int) -> list[TransientError]:
    return [TransientError(f"away {time}") for time in range(times)]


def test_waits_grow_up_to_their_ceiling_however_many_there_were() -> None:
    assert [Backoff(0.5, 3.0).bound_s(n) for n in (1, 2, 3, 4, 100_000)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert [Backoff(1.0, 15.0, factor=1.5).bound_s(n) for n in (1, 2, 3)] == [1.0, 1.5, 2.25]
    assert Backoff(5.0, 1.0).bound_s(1) == 1.0
    assert Backoff(0.0, 86_400.0).bound_s(100_000) == 0.0


def test_a_wait_is_drawn_between_its_shares_by_the_source_that_is_given() -> None:
    backoff = Backoff(2.0, 8.0, jitter=(0.5, 1.0))
    assert [backoff.wait_s(2, draw=lambda drawn=drawn: drawn) for drawn in (0.0, 0.5, 1.0)] == [2.0, 3.0, 4.0]
    first, second = ([backoff.wait_s(n, draw=random.Random(7).random) for n in (1, 2)] for _ in range(2))
    assert first == second
    assert backoff.wait_s(1, asked_s=30.0) == 30.0
    assert 1.0 <= backoff.wait_s(1, asked_s=0.1) <= 2.0


def test_a_call_is_tried_until_it_returns_and_each_failure_is_told(call: Call) -> None:
    failing = Failing(clock := Clock(), *away(3))
    told: list[str] = []
    assert call(Backoff(1.0, 3.0), failing, failed=lambda error: told.append(str(error))) == "here"
    assert (clock.waits, told) == ([1.0, 2.0, 3.0], ["away 0", "away 1", "away 2"])


def test_the_wait_that_a_server_asks_for_is_kept(call: Call) -> None:
    failing = Failing(clock := Clock(), BusyError("429", wait_s=7.0), *away(1))
    call(Backoff(1.0, 3.0, jitter=(0.5, 1.0)), failing, draw=lambda: 0.0)
    assert clock.waits == [7.0, 1.0]
    failing = Failing(clock := Clock(), BusyError("429", wait_s=7.0))
    call(Backoff(1.0, 3.0), failing, heed=False)
    assert clock.waits == [1.0]


def test_no_wait_is_begun_that_ends_after_the_patience_and_the_last_error_is_raised(call: Call) -> None:
    failing = Failing(clock := Clock(), *away(9))
    with pytest.raises(TransientError, match="away 2"):
        call(Backoff(1.0, 60.0), failing, patience_s=7.0)
    assert clock.waits == [1.0, 2.0]
    failing = Failing(clock := Clock(), BusyError("429", wait_s=900.0))
    with pytest.raises(BusyError):
        call(Backoff(1.0, 60.0), failing, patience_s=20.0)
    assert clock.waits == []


def test_no_patience_is_one_call_and_a_call_that_takes_long_uses_none_up(call: Call) -> None:
    failing = Failing(clock := Clock(), *away(1))
    with pytest.raises(TransientError):
        call(Backoff(0.5, 30.0), failing, patience_s=0.0)
    assert (failing.calls, clock.waits) == (1, [])
    assert call(Backoff(0.5, 30.0), Failing(Clock(), *away(1), takes_s=600.0), patience_s=10.0) == "here"


@pytest.mark.parametrize("error", [DataError("bad"), KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_waiting_does_not_help_is_raised_at_once(call: Call, error: BaseException) -> None:
    failing = Failing(clock := Clock(), error)
    with pytest.raises(type(error)):
        call(Backoff(0.5, 30.0), failing)
    assert (failing.calls, clock.waits) == (1, [])


def test_which_errors_are_tried_again_is_for_the_caller_to_say(call: Call) -> None:
    assert call(Backoff(1.0, 1.0), Failing(Clock(), DataError("x")), retry_on=DataError) == "here"
    assert call(Backoff(1.0, 1.0), Failing(Clock(), DataError("x")), retry_on=(OSError, DataError)) == "here"
    with pytest.raises(DataError, match="y"):
        call(Backoff(1.0, 1.0), Failing(Clock(), DataError("x"), DataError("y")), retry_on=lambda e: "x" in str(e))


async def test_calls_side_by_side_have_waits_and_patience_of_their_own() -> None:
    backoff, numbers = Backoff(0.001, 0.004), itertools.count()

    async def failing(times: int) -> int:
        failures = iter(away(times))

        async def operation() -> int:
            await asyncio.sleep(0)
            for failure in failures:
                raise failure
            return next(numbers)

        return await backoff.call(lambda: operation(), patience_s=5.0)

    found = await asyncio.gather(*(failing(times) for times in (4, 0, 2, 1)))
    assert sorted(found) == [0, 1, 2, 3]
    assert found[1] == 0


async def test_a_wait_may_end_the_call() -> None:
    class Stopped(Exception):  # noqa: N818 - nothing went wrong
        pass

    async def stop(seconds: float) -> None:
        raise Stopped

    async def operation() -> None:
        raise TransientError("away")

    with pytest.raises(Stopped):
        await Backoff(1000.0, 1000.0).call(operation, sleep=stop)
