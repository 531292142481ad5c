"""Whose turn it is at a model that many ask: clients among each other, and clients and labelling.

Owns the counts of what each got, and who is behind. Knows no model and no clock. Clients are compared by tokens, so
that who asks for 4,096 pays for them; labelling and clients by seconds of the engine, for a token of a large batch
costs less than one of a small batch. After "Fairness in Serving Large Language Models" (arXiv 2401.00588).
Invariants: work goes on while anybody wants any; who was away gains no more than its credit by it; newcomers together
go ahead with about half of the work, so that who waits is overtaken for so long and no longer.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)

CREDIT_TOKENS = 512.0
"""A client that asked for little lately is so many tokens ahead of the others: about one short question's."""
CREDIT_S = 0.5
LABELLING_CREDIT_S = 0.2
"""Labelling is away between two of its batches: it gets its part of what clients got meanwhile, up to so many seconds
of theirs; after a longer absence it begins with that."""
DEBT_S = 2.0
"""So far may clients within their credit go ahead of labelling, seconds of the engine; labelling gets it back."""
_REMEMBERED = 1024


class FairCount(Generic[Name]):
    """Picks who got least of those that want; who comes (again) begins about where the others stand."""

    def __init__(self, credit: float) -> None:
        self._credit = credit
        self._got: dict[Name, float] = {}
        self._present: frozenset[Name] = frozenset()
        self._level = 0.0
        self._lent = 0.0  # what was done for those within their credit, less what was done for the others since

    def ordered(self, wanting: Collection[Name], credits: Mapping[Name, float] | None = None) -> list[Name]:
        """Those that want, who got least first; of equals the one named first."""
        standing = [self._got[name] for name in wanting if name in self._present]
        if standing:
            self._level = max(self._level, min(standing))
        for name in wanting:
            if name not in self._present:
                credit = self._credit - self._lent if credits is None else credits.get(name, self._credit)
                self._got[name] = max(self._got.get(name, self._level - credit), self._level - credit)
        self._present = frozenset(wanting)
        if len(self._got) > _REMEMBERED:
            self._got = {
                name: got
                for name, got in self._got.items()
                if name in self._present or got > self._level - self._credit
            }
        return sorted(wanting, key=lambda name: self._got[name])

    def charge(self, name: Name, cost: float) -> None:
        self._lent = self._lent + cost if self.within_credit(name) else max(0.0, self._lent - cost)
        self._got[name] = self._got.get(name, self._level) + cost

    def got(self, name: Name) -> float:
        return self._got.get(name, self._level)

    def within_credit(self, name: Name) -> bool:
        """Whether it is still behind where the others stand."""
        return self._got.get(name, self._level) < self._level


class Turns:
    """The order of clients and labelling."""

    def __init__(self, labelling_share: float) -> None:
        """Begin with equals.

        Args:
            labelling_share: part of the engine's time that labelling gets while clients want more, in (0, 1).
        """
        self.labelling_share = labelling_share
        self._classes: FairCount[bool] = FairCount(CREDIT_S)  # True: labelling
        self._clients: FairCount[str] = FairCount(CREDIT_TOKENS)

    def order(self, clients: Collection[str], *, labelling: bool) -> list[str | None]:
        """All that want work done, whose turn it is first; None stands for labelling."""
        ordered = self._clients.ordered(clients)
        wanting = [False] * bool(ordered) + [True] * labelling
        credits = {True: LABELLING_CREDIT_S / (1 - self.labelling_share)}
        labels_first = self._classes.ordered(wanting, credits)[:1] == [True]
        if labels_first and ordered and self._clients.within_credit(ordered[0]):
            labels_first = self._classes.got(False) - self._classes.got(True) > DEBT_S / (1 - self.labelling_share)
        behind: list[str | None] = [None] if labelling else []
        return [*behind, *ordered] if labels_first else [*ordered, *behind]

    def charge_clients(self, tokens: Mapping[str, float], seconds: float) -> None:
        self._classes.charge(False, seconds / (1 - self.labelling_share))
        for name, count in tokens.items():
            self._clients.charge(name, count)

    def charge_labelling(self, seconds: float) -> None:
        self._classes.charge(True, seconds / self.labelling_share)

    def ahead(self, clients: Collection[str]) -> list[str]:
        """Who got most first."""
        return sorted(clients, key=self._clients.got, reverse=True)

    def close(self, one: str, other: str) -> bool:
        """Whether two clients got about as much: then neither loses by sharing a batch."""
        return abs(self._clients.got(one) - self._clients.got(other)) <= CREDIT_TOKENS / 2
