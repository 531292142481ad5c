"""What a client's request is to the engine of this process: whose turn it takes, and how long it may be worked on.

Owns the bounds on its time. Invariant: `gateway.timeout_s` counts while the engine works on a request, not while
others are served; nobody waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from semievol.errors import LateError, TransientError
from semievol.protocols import Generator
from semievol.types import Completion, GenerationRequest
from semievold.gateway.call import Call
from semievold.gateway.clients import client_name

_WAITING = 2.0
"""So many times the time of a request may it take in all, while others are served."""


async def generated(generator: Generator, requests: Sequence[GenerationRequest], call: Call) -> list[list[Completion]]:
    """The answers to the requests of a call.

    Raises:
        TimeoutError: the engine worked on it for as long as a request may take.
        TransientError: others were served meanwhile, and it is not done after twice that time.
        SemiEvolError: as `Generator.generate`.
    """
    left_s = max(0.001, call.deadline - asyncio.get_running_loop().time())
    # Requests of one turn share one place in the order; the body has no say in it.
    turn = client_name(call.request)
    asked = [replace(each, turn=turn, time_s=left_s) for each in requests]
    try:
        async with asyncio.timeout(_WAITING * left_s) as waiting:
            return await generator.generate(asked)
    except LateError as late:
        raise TimeoutError(str(late)) from late
    except TimeoutError:
        if not waiting.expired():
            raise
        busy = "others are served meanwhile, and no answer came within twice the gateway's time limit; ask again later"
        raise TransientError(busy) from None
