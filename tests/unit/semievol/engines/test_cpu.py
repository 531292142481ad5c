"""What the processor says of itself."""

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
