"""How many entries of a list are shown: what was there for years has thousands, and whoever polls wants the newest."""

from __future__ import annotations

from collections.abc import Mapping

from semievol.errors import DataError

LISTED = 100
"""Rounds, or versions, by default."""
MOST_LISTED = 1_000
_DIGITS = 9


def read_limit(query: Mapping[str, str], default: int, most: int) -> int:
    """`?limit=`.

    Raises:
        DataError: naming the parameter and the fix.
    """
    text = query.get("limit", str(default))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else 0
    if not 0 < limit <= most:
        raise DataError(f"limit: {text[:20]!r} is no number from 1 to {most}")
    return limit
