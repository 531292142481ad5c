"""The files of rounds that have ended: what is large and of no use any more is removed, the rest after a while.

Owns which files those are. Invariant: nothing of a round that may still go on is touched.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence

from semievold.rounds.places import RoundPlace
from semievold.store.rounds import Round

log = logging.getLogger(__name__)

LARGE = ("checkpoints", "adapter")
"""In a training's working directory: an ended round is never resumed, and what it published lies with the adapters."""


def tidy(place: RoundPlace, rounds: Sequence[Round], keep: int) -> None:
    """Remove what ended rounds left; snapshot and log of the newest `keep` rounds stay. Blocking.

    Args:
        place: where the files are.
        rounds: all of them, newest first.
        keep: of how many rounds the files stay.
    """
    for number, each in enumerate(rounds):
        training = place.training(each)
        if not each.ended or not training.work.parent.is_dir():
            continue
        if number >= keep:
            shutil.rmtree(training.work.parent, ignore_errors=True)
            log.info("deleted the files of round %d (artifacts.keep_rounds)", each.number)
            continue
        for name in LARGE:
            shutil.rmtree(training.work / name, ignore_errors=True)
