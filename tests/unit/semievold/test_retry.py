import asyncio

import pytest

from semievol.errors import DataError, TransientError
from semievold.config.streams import RetrySettings
from semievold.retry import Health, Stopped, backoff, until_answered

FAST = RetrySettings(initial_s=0.001, max_s=0.002)


def test_waits_double_up_to_the_cap() -> None:
    waits = backoff(RetrySettings(initial_s=0.5, max_s=3.0))
    assert [waits.wait_s(n, draw=lambda: 1.0) for n in (1, 2, 3, 4, 1000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_jitter_never_makes_a_wait_vanish() -> None:
    assert backoff(RetrySettings(initial_s=1.0)).wait_s(1, draw=lambda: 0.0) == pytest.approx(0.1)


async def test_an_operation_is_tried_until_it_answers_and_shows_as_degraded_meanwhile() -> None:
    health = Health()
    seen: list[str | None] = []

    async def operation() -> str:
        seen.append(health.degraded)
        if len(seen) < 4:
            raise TransientError(f"away {len(seen)}")
        return "here"

    assert await until_answered("engine", operation, FAST, health, asyncio.Event()) == "here"
    assert seen == [None, "engine: away 1", "engine: away 2", "engine: away 3"]
    assert health.degraded is None
    assert health.retries == 3


async def test_an_error_that_waiting_does_not_help_is_raised_at_once() -> None:
    health = Health()

    async def operation() -> None:
        raise DataError("too long")

    with pytest.raises(DataError):
        await until_answered("engine", operation, FAST, health, asyncio.Event())
    assert health.retries == 0


async def test_a_stop_ends_the_wait_for_the_next_attempt() -> None:
    stop = asyncio.Event()

    async def operation() -> None:
        stop.set()
        raise TransientError("away")

    slow = RetrySettings(initial_s=1000.0, max_s=1000.0)
    with pytest.raises(Stopped):
        await asyncio.wait_for(until_answered("engine", operation, slow, Health(), stop), 5)
