"""What rounds that have ended left: files that are large and of no use any more are removed, the rest after a while.

Owns which files those are. Invariant: nothing of a round that may still go on is touched, and what serves, or served
before, can be traced to what it was trained on.
"""

from __future__ import annotations

import asyncio
import logging
import shutil

from semievol.errors import ConfigError, TransientError
from semievold.rounds.places import RoundPlace
from semievold.rounds.tools import RoundTools
from semievold.store.stores import Stores

log = logging.getLogger(__name__)

LARGE = ("checkpoints", "adapter")
"""In a training's working directory: an ended round is never resumed, and what it published lies with the adapters."""


async def tidy_up(place: RoundPlace, tools: RoundTools, keep: int) -> None:
    """Remove what ended rounds left on the disk, and end what still trains for one of them."""
    await asyncio.to_thread(tidy, place, tools.stores, keep)
    open_round = await asyncio.to_thread(tools.stores.rounds.open)
    try:
        await tools.launcher.retire(None if open_round is None else open_round.number)
    except (ConfigError, TransientError) as error:  # the next round's end tries it again
        log.warning("what trains for rounds that are over is left alone for now: %s", error)


def tidy(place: RoundPlace, stores: Stores, keep: int) -> None:
    """Remove what ended rounds left; snapshot and log stay of the newest `keep` rounds, and of those whose adapters
    serve and served before. Blocking.
    """
    alias = stores.alias.get()
    versions = [stores.adapters.get(name) for name in (alias.adapter, alias.previous) if name is not None]
    spared = {version.round for version in versions if version is not None}
    newest = next((each.number for each in stores.rounds.all(1)), 0)
    # By what lies there, which has a bound; rounds have none.
    for each in (stores.rounds.get(number) for number in place.numbers()):
        if each is None or not each.ended:
            continue
        training = place.training(each)
        if each.number <= newest - keep and each.number not in spared:
            shutil.rmtree(training.work.parent, ignore_errors=True)
            log.info("deleted the files of round %d (artifacts.keep_rounds)", each.number)
            continue
        for name in LARGE:
            shutil.rmtree(training.work / name, ignore_errors=True)
