"""What every look asks of all rounds, kept small: a round's row is read until it has ended, and never again.

Owns the memory of one process; from any thread. Invariant: what is remembered of a round cannot change any more, and
no round is remembered twice.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from semievold.round_states import ENDED, UNDECIDED, RoundKind, RoundState
from semievold.store.rounds import Round, RoundStore

CONFIG_OPTION = "config"
"""Under this name a round's options hold the hash of the settings that it was planned under."""


@dataclass(frozen=True, slots=True)
class BriefRound:
    """A round without what only its own pages show.

    config_hash: of the settings that it was planned under; None: not recorded.
    labelled_total: pseudo-labels that there were when it chose; None: it has not chosen.
    """

    number: int
    kind: RoundKind
    state: RoundState
    reason: str | None
    config_hash: str | None
    labelled_total: int | None
    created_at: float
    updated_at: float

    @classmethod
    def of(cls, round_: Round) -> BriefRound:
        return cls(
            round_.number,
            round_.kind,
            round_.state,
            round_.reason,
            round_.options.get(CONFIG_OPTION),
            (round_.snapshot or {}).get("labelled_total"),
            round_.created_at,
            round_.updated_at,
        )

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def decided(self) -> bool:
        """It ended with the gate's word."""
        return self.ended and self.state not in UNDECIDED


class RoundHistory:
    """The rounds of one workload, as a look finds them."""

    def __init__(self, rounds: RoundStore) -> None:
        self._rounds = rounds
        self._ended: list[BriefRound] = []  # oldest first
        self._looking = threading.Lock()  # pages of the console are made in several threads

    def look(self) -> list[BriefRound]:
        """Newest first. Blocking."""
        with self._looking:
            known = self._ended[-1].number + 1 if self._ended else 0
            newer = [BriefRound.of(each) for each in reversed(self._rounds.all(first=known))]
            self._ended += [each for each in newer if each.ended]
            # At most one is open, and that is the newest.
            return [*(each for each in newer if not each.ended), *reversed(self._ended)]
