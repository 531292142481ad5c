"""What the processor says of itself."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from semievol.engines.cpu import has_bfloat16


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", True),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("model name\t: bf16", False),
    ],
)
def test_bfloat16_is_read_from_the_features(tmp_path: Path, line: str, has: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    assert has_bfloat16(tmp_path / "cpuinfo") is has


def test_what_cannot_be_read_has_none(tmp_path: Path) -> None:
    assert has_bfloat16(tmp_path / "nowhere") is False


# Whether a block is one that goes back to the system when it is freed, after a larger one has come and gone.
_TAKEN = """
import ctypes, sys
from semievol.engines.cpu import give_back_blocks

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
told = give_back_blocks(4 << 20) if sys.argv[1] == "set" else None
large = bytearray(24 << 20)
del large  # by itself glibc takes this for the usual size from now on
before = libc.mallinfo2().hblkhd
block = bytearray(8 << 20)
print(told, libc.mallinfo2().hblkhd - before >= 8 << 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
@pytest.mark.parametrize(
    ("argument", "environment", "told"),
    [
        ("set", {}, "True True"),
        ("left", {}, "None False"),
        ("set", {"MALLOC_MMAP_THRESHOLD_": "33554432"}, "False False"),  # the user's own bound stays
    ],
)
def test_large_blocks_are_given_back_whatever_was_freed_before(
    argument: str, environment: dict[str, str], told: str
) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", _TAKEN, argument]
    done = subprocess.run(command, env={**own, **environment}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == told
