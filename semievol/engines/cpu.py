"""What this machine's processor computes well. Owns the reading of its features; imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
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
