"""How long a stream may take."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader

from semievold.gateway.replica.answers import ReplicaFailed, next_events
from semievold.gateway.replica.stream_time import StreamTime
from semievold.gateway.rewriting import StreamRewriter

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


@pytest.mark.parametrize("whole", [True, False])
async def test_what_came_whole_before_the_deadline_is_passed_on_after_it(whole: bool) -> None:
    loop = asyncio.get_running_loop()
    content = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    content.feed_data(b"data: [DONE]\n\n")
    if whole:
        content.feed_eof()
    answer: Any = SimpleNamespace(content=content)
    time = begin(0.0)
    async with time:
        await asyncio.sleep(0.01)  # for a client that is slow to take what came before
        assert time.over
        if whole:
            assert await next_events(answer, StreamRewriter(b'"x"', lambda payload: payload), time)
        else:
            with pytest.raises(ReplicaFailed, match="too slow"):
                await next_events(answer, StreamRewriter(b'"x"', lambda payload: payload), time)
