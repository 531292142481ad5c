"""One recorded seed, many independent streams: every random choice names what it is for.

Owns how one seed becomes many; jitter of waits and the samples of clients who give no seed are not derived.
Invariant: `derive(seed, *parts)` is a pure function, stable across processes and Python versions: adapters' hashes
depend on it.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed for the purpose named by `parts`."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def derive32(seed: int, *parts: str | int) -> int:
    """The same below 2**32, which is what torch and numpy's older generators take."""
    return derive(seed, *parts) % 2**32
