"""The states of a round and the moves between them: pure, so that every path can be read and tested here.

The main path is MAIN_PATH; a round leaves it only by an exit, and an ended round never moves again. What is done in
a state is in `semievold.rounds.steps`; how it is stored is in `semievold.store.rounds`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

RoundKind = Literal["warm", "evolve"]


class RoundState(StrEnum):
    """Where a round stands. The name says what is durable: `trained` means the adapter directory is STABLE."""

    PLANNED = "planned"
    SNAPSHOTTED = "snapshotted"
    TRAINING = "training"
    TRAINED = "trained"
    LOADED = "loaded"
    EVALUATED = "evaluated"
    ATTESTED = "attested"
    PROMOTED = "promoted"
    SETTLED = "settled"
    REJECTED = "rejected"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


S = RoundState
MAIN_PATH = (
    S.PLANNED,
    S.SNAPSHOTTED,
    S.TRAINING,
    S.TRAINED,
    S.LOADED,
    S.EVALUATED,
    S.ATTESTED,
    S.PROMOTED,
    S.SETTLED,
)
ENDED = frozenset({S.SETTLED, S.REJECTED, S.INCONCLUSIVE, S.FAILED, S.ROLLED_BACK, S.CANCELLED})
# Rounds that ended without the gate's word: what they would have learned from still counts as new.
UNDECIDED = frozenset({S.FAILED, S.CANCELLED})
CANCELLABLE = frozenset(MAIN_PATH[: MAIN_PATH.index(S.PROMOTED)])

_EXITS: dict[RoundState, frozenset[RoundState]] = {
    **{state: frozenset({S.FAILED, S.CANCELLED}) for state in CANCELLABLE},
    S.LOADED: frozenset({S.FAILED, S.CANCELLED, S.REJECTED, S.INCONCLUSIVE}),
    S.PROMOTED: frozenset({S.ROLLED_BACK}),
}


def allowed(current: RoundState, following: RoundState) -> bool:
    """Whether a round in `current` may move to `following`."""
    if current in ENDED:
        return False
    following_on_path = MAIN_PATH[MAIN_PATH.index(current) + 1]
    return following is following_on_path or following in _EXITS[current]
