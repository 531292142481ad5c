"""What a process keeps in mind of what its clients did lately: the newest, and of nothing more than so much.

Owns the bound. Invariant: what was put in last is forgotten last, and a client that does much lets only what is older
be forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

REMEMBERED = 10_000
"""Entries that a process keeps in mind of each kind; the state knows the older ones."""


class Remembered(Generic[K, V]):
    """A mapping that forgets what was put into it first."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._kept: OrderedDict[K, V] = OrderedDict()

    def put(self, key: K, value: V) -> None:
        self._kept[key] = value
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def get(self, key: K) -> V | None:
        return self._kept.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def taken(self, most: int) -> dict[K, V]:
        """The oldest, up to so many, which are forgotten."""
        return dict(self._kept.popitem(last=False) for _ in range(min(most, len(self._kept))))
