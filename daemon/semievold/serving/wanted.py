"""Which adapters the replicas are to hold, and which gives way where there are more than they may.

State only; who loads and unloads is the reconciler. Invariant: what serves, what a rollback would serve, and what is in
use give way to nobody.
"""

from __future__ import annotations

from collections.abc import Callable

from semievold.serving.adapter_servers import HeldAdapter


class WantedAdapters:
    """The serving version, the previous one, and those that rounds propose."""

    def __init__(self, most: int) -> None:
        """Want nothing yet; `most` is how many versions a replica may hold."""
        self._most = most
        self._serving: HeldAdapter | None = None
        self._previous: HeldAdapter | None = None
        self._others: dict[str, HeldAdapter] = {}
        self.protected: frozenset[str] = frozenset()
        """Never unloaded, wanted or not: the alias names them."""

    @property
    def serving(self) -> str | None:
        """The name of the version that serves; None: the base model does."""
        return None if self._serving is None else self._serving.name

    def __contains__(self, name: str) -> bool:
        return any(adapter.name == name for adapter in self.in_order())

    def in_order(self) -> list[HeldAdapter]:
        """Most important first: what serves, then what a round proposes, then what a rollback would serve."""
        kept = [self._serving, *reversed(self._others.values()), self._previous]
        return [adapter for adapter in kept if adapter is not None]

    def keep(self, serving: HeldAdapter | None, previous: HeldAdapter | None) -> None:
        """These serve and would serve; what did before stays wanted until it is dropped."""
        for old in (self._serving, self._previous):
            if old is not None:
                self._others.setdefault(old.name, old)
        self._serving, self._previous = serving, previous
        for kept in (serving, previous):
            if kept is not None:
                self._others.pop(kept.name, None)

    def add(self, adapter: HeldAdapter, in_use: Callable[[str], bool]) -> None:
        """Take it among the wanted ones; where there are too many, those that nobody uses give way, oldest first."""
        if adapter.name in self:
            return
        idle = [name for name in self._others if name not in self.protected and not in_use(name)]
        while idle and len(self.in_order()) >= self._most:
            self._others.pop(idle.pop(0))
        self._others[adapter.name] = adapter

    def drop(self, name: str) -> None:
        """Not wanted from now on, unless it serves or would serve."""
        self._others.pop(name, None)
