"""The requests of one call, each in a task of its own, for engines that ask over a network.

Invariant: an error of the call keeps no answer back: what is being worked on ends first, and is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from semievol.protocols import Tell
from semievol.types import GenerationRequest, Reply


async def each_for_itself(
    requests: Sequence[GenerationRequest], reply: Callable[[GenerationRequest], Awaitable[Reply]], tell: Tell
) -> None:
    """Tell of each request what `reply` says as soon as it does.

    Raises:
        The first error of one, when all have ended.
    """
    failure: Exception | None = None

    async def one(place: int, request: GenerationRequest) -> None:
        nonlocal failure
        try:
            tell(place, await reply(request))
        except Exception as error:
            failure = failure or error

    tasks = [asyncio.create_task(one(place, request)) for place, request in enumerate(requests)]
    try:
        if tasks:
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failure is not None:
        raise failure
