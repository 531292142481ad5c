"""Work on many at once of which some may be refused: nobody pays for another's refusal.

Owns the search by halves for who it is. Owns not what becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from semievol.errors import DataError

T = TypeVar("T")
R = TypeVar("R")


def each_or_refusal(items: Sequence[T], work: Callable[[Sequence[T]], Iterable[R]]) -> list[R | DataError]:
    """What `work` makes of each, or in its place the refusal.

    Args:
        items: in the order of the results.
        work: one result an item; a DataError is about one of those that it was given.
    """
    try:
        return [*work(items)]
    except DataError as refusal:
        if len(items) == 1:
            return [refusal]
    half = len(items) // 2
    return each_or_refusal(items[:half], work) + each_or_refusal(items[half:], work)
