"""Versions whose download was refused: each is asked for again later and later, not at every look."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from semievol.backoff import Backoff

_RETRY = Backoff(5.0, 300.0)


@dataclass(frozen=True, slots=True)
class _Refused:
    tries: int
    again_at: float
    why: str


class Refusals:
    """What was refused, by name.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refused: dict[str, _Refused] = {}

    def waits(self, name: str) -> str | None:
        """Why it was refused, as long as it is not to be asked for again; None: ask."""
        refused = self._refused.get(name)
        return refused.why if refused is not None and self._clock() < refused.again_at else None

    def add(self, name: str, why: str) -> None:
        """It was refused, once more."""
        tries = self._refused[name].tries + 1 if name in self._refused else 1
        self._refused[name] = _Refused(tries, self._clock() + _RETRY.bound_s(tries), why)

    def forget(self, name: str) -> None:
        """It has come."""
        self._refused.pop(name, None)

    def keep(self, names: Collection[str]) -> None:
        """Forget all but these."""
        self._refused = {name: refused for name, refused in self._refused.items() if name in names}
