"""One recorded seed, many independent streams: every random choice names what it is for.

Invariant: `derive(seed, *parts)` is a pure function, stable across processes and Python versions.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed for the purpose named by `parts`."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
