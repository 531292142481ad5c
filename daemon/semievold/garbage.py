"""How often Python looks for garbage in cycles: seldom, and never among what lives as long as the process.

Owns these two settings alone. What is in no cycle is freed at once, whatever they say.
"""

from __future__ import annotations

import gc

YOUNG = 20_000
"""New objects before a look at them. A batch of 128 queries on its way makes about as many: Python's 700 look at each
batch thirty times while it is alive, which took a tenth of the intake's time and of the gateway's."""


def set_aside_what_was_built() -> None:
    """Let the garbage collector pass over all that exists now, and look less often at what comes.

    Going through what lives as long as the process every few thousand queries would stop everything for 0.1 s and more
    each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
