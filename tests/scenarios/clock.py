"""One clock for a whole process: `time.time` and `time.monotonic` are the loop's, which jumps where nothing is to do.

Owns the clock. It has to be set before anything of the daemon is imported, for who keeps a clock from its import on
would keep the machine's; so a process of its own runs the scenarios, and `install` is the first thing it does.
"""

from __future__ import annotations

import asyncio
import itertools
import time

from tests.virtual_time import VirtualTimeLoop

EPOCH_S = 1_700_000_000.0
"""UTC seconds when a loop begins."""
TICK_S = 1e-6
"""UTC seconds, as floats, part no shorter ones."""

_now: list[VirtualTimeLoop] = []
_ticks = itertools.count()


def install() -> None:
    """From now on this process has the time of the loop that runs in it."""
    machine, monotonic = time.time, time.monotonic
    # No two looks find the same time: what came later has the later one, and whoever waits out a deadline by sums of
    # his own comes past what rounding leaves of it.
    time.time = lambda: EPOCH_S + _now[-1].time() + TICK_S * next(_ticks) if _now else machine()
    time.monotonic = lambda: _now[-1].time() + TICK_S * next(_ticks) if _now else monotonic()


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop at second 0, whose time the process has until the next one is made."""
    # Both ends of a socket are here: what one wrote is there already.
    _now[:] = [VirtualTimeLoop(sockets_s=0.0)]
    return _now[-1]
