"""What servers write, made safe to keep: text that every file takes, numbers that can be reckoned with.

Owns what is done to a value that is nearly right. What is not right at all is an error of the caller's. Invariant: what
leaves here can be encoded as UTF-8 and written as JSON.
"""

from __future__ import annotations

import math
from typing import Any

from semievol.plain_lines import one_line, whole

MOST = 2**31 - 1
"""Of what is counted: no column is narrower."""


def whole_text(value: Any) -> str:
    """A text; None is an empty one, and halves of a surrogate pair become U+FFFD.

    Raises:
        TypeError: it is no text.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, not {type(value).__name__}")
    return whole(value)


def logprob(value: Any) -> float:
    """A log-probability.

    Raises:
        TypeError, ValueError: it is no number.
    """
    number = float(value)
    if math.isnan(number):
        raise ValueError("a log-probability is not a number")
    return number


def count(value: Any) -> int:
    """How many, where that only informs: 0 where it is no number that every store takes."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return number if 0 <= number <= MOST else 0


def said(value: Any, limit: int = 400) -> str:
    """What a server says in an error: one line, shortened."""
    return one_line(" ".join(whole_text(value if isinstance(value, str) else str(value)).split()))[:limit]
