"""The states of a round and the moves between them: pure, so that every path can be read and tested here.

The main path is MAIN_PATH; a round whose proof is not complete stays in `proving` before it is promoted, and one whose
version is first given to some of the clients in `canary`. It leaves by an exit alone, and an ended round never moves
again. What is done in a state is in `semievold.rounds.steps`; how it is
stored is in `semievold.store.rounds`.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
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
    PROVING = "proving"
    CANARY = "canary"
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
CANCELLABLE = frozenset({*MAIN_PATH[: MAIN_PATH.index(S.PROMOTED)], S.PROVING, S.CANARY})

_EXITS: dict[RoundState, frozenset[RoundState]] = {
    **{state: frozenset({S.FAILED, S.CANCELLED}) for state in CANCELLABLE},
    **{state: frozenset({S.FAILED, S.CANCELLED, S.REJECTED, S.INCONCLUSIVE}) for state in (S.LOADED, S.PROVING)},
    S.CANARY: frozenset({S.FAILED, S.CANCELLED, S.INCONCLUSIVE, S.ROLLED_BACK}),
    S.PROMOTED: frozenset({S.ROLLED_BACK}),
}
_FOLLOWING: dict[RoundState, frozenset[RoundState]] = {
    **{state: frozenset({after}) for state, after in pairwise(MAIN_PATH)},
    S.ATTESTED: frozenset({S.PROMOTED, S.PROVING, S.CANARY}),
    S.PROVING: frozenset({S.PROMOTED, S.CANARY}),
    S.CANARY: frozenset({S.PROMOTED}),
}


def allowed(current: RoundState, following: RoundState) -> bool:
    """Whether a round in `current` may move to `following`."""
    if current in ENDED:
        return False
    return following in _FOLLOWING[current] or following in _EXITS[current]
