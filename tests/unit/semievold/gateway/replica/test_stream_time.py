"""How long a stream may take."""

import asyncio

import pytest

from semievold.gateway.replica.stream_time import StreamTime

LONGER_S = 0.2


async def wait_in(time: StreamTime, *, for_replica: bool) -> None:
    async with time:
        time.reading = for_replica
        await asyncio.Event().wait()


def begin(seconds: float) -> StreamTime:
    return StreamTime(asyncio.get_running_loop().time() + seconds, LONGER_S)


async def test_a_replica_that_is_awaited_at_the_deadline_was_slow() -> None:
    time, started = begin(0.05), asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await wait_in(time, for_replica=True)
    assert time.slow
    assert time.over
    assert asyncio.get_running_loop().time() - started < 0.05 + LONGER_S


async def test_a_client_that_is_awaited_at_the_deadline_has_a_while_longer() -> None:
    time, started = begin(0.05), asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await wait_in(time, for_replica=False)
    assert not time.slow
    assert time.over  # nothing more would be asked of the replica
    assert asyncio.get_running_loop().time() - started >= 0.05 + LONGER_S - 0.01


async def test_a_stream_that_ends_in_time_leaves_no_timer() -> None:
    time = begin(0.05)
    async with time:
        time.reading = True
    await asyncio.sleep(0.1)
    assert not time.over


async def test_who_is_cancelled_from_outside_is_not_late() -> None:
    time = begin(5.0)
    running = asyncio.create_task(wait_in(time, for_replica=True))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not time.slow
