"""What a client's request is to the engine of this process: whose turn it takes, and how long it may be worked on.

Owns the name of a turn. Invariant: time counts while the engine works on a request, not while others are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from aiohttp import web

from semievol.errors import LateError
from semievol.protocols import Generator
from semievol.types import Completion, GenerationRequest
from semievold.gateway.call import Call

TURN_KEY = "turn"
"""Of a request, for what knows its client better than its address tells."""


def turn_of(request: web.Request) -> str:
    """Whose request it is: requests of one turn share one place in the order. The body has no say in it."""
    return str(request.get(TURN_KEY) or request.remote or "")


async def generated(generator: Generator, requests: Sequence[GenerationRequest], call: Call) -> list[list[Completion]]:
    """The answers to the requests of a call.

    Raises:
        TimeoutError: the engine worked on it for as long as a request may take.
        SemiEvolError: as `Generator.generate`.
    """
    left_s = max(0.001, call.deadline - asyncio.get_running_loop().time())
    try:
        turn = turn_of(call.request)
        return await generator.generate([replace(each, turn=turn, time_s=left_s) for each in requests])
    except LateError as late:
        raise TimeoutError(str(late)) from late
