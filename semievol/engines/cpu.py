"""What this machine's processor computes well, and how its memory is given back.

Owns the reading of its features, and the one setting of the C library's allocator; imports nothing heavy.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""
_LEAST_BLOCK, _LARGEST_BLOCK = 1 << 20, 32 << 20
_BFLOAT16_FEATURES = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux names them on x86 (the first two) and Arm."""


def has_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the processor multiplies bfloat16 itself; without it, float32 is several times as fast.

    False where it cannot be known (no Linux): float32 is then the safe choice.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    features = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    return any(_BFLOAT16_FEATURES & set(line.split()) for line in features)


def give_back_blocks(of_bytes: int) -> bool:
    """Let glibc give each freed block of so many bytes back to the system at once; whether it does.

    By itself it does so from a bound on that it moves up to 32 MiB as blocks are freed. What grows step by step, as the
    caches of long prompts do, then leaves holes that it fits no longer, and a process held half as much again as its
    caches. Smaller blocks are better kept: to take one anew for each result costs a tenth of the speed.

    `MALLOC_MMAP_THRESHOLD_` in the environment goes before. Nothing happens without glibc.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    block = max(_LEAST_BLOCK, min(of_bytes, _LARGEST_BLOCK))
    # The end of the heap is kept up to a bound of its own, which moved with the other one.
    return bool(mallopt(_MMAP_THRESHOLD, block) and mallopt(_TRIM_THRESHOLD, block))
