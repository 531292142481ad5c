"""How many entries of a list are shown: what was there for years has thousands, and whoever polls wants the newest."""

from __future__ import annotations

from collections.abc import Mapping

from semievol.errors import DataError

LISTED = 100
"""Rounds, or versions, by default."""
MOST_LISTED = 1_000


def read_limit(query: Mapping[str, str], default: int, most: int) -> int:
    """`?limit=`.

    Raises:
        DataError: naming the parameter and the fix.
    """
    limit = query.get("limit", str(default))
    if not (limit.isascii() and limit.isdigit()) or not 0 < int(limit[:9]) <= most:
        raise DataError(f"limit: {limit[:20]!r} is no number from 1 to {most}")
    return int(limit)
