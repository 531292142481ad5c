"""From a planned round to what it trains on: labels made again, rows chosen, and the breaker's word on them.

Owns the order of that, and who labels; not what is written (`semievold.rounds.snapshot`) nor the moves of the round
(`semievold.rounds.steps`). Invariant: beyond a bound of the breaker nothing is trained until a person thaws.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semievol.errors import AdapterError
from semievold.config.daemon import DaemonConfig
from semievold.rounds import snapshot
from semievold.rounds.places import RoundPlace
from semievold.rounds.planning import breaker
from semievold.rounds.pool import RoundPool, Say
from semievold.rounds.snapshot import Snapshot
from semievold.rounds.tools import RoundTools
from semievold.store.rounds import Round

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What a round found to train on; it is written to the disk if nothing speaks against it.

    nothing: why there is nothing to learn. stopped: why it must not go on without a person. breaker: for the row; empty
    where nothing was measured.
    """

    chosen: Snapshot
    nothing: str | None = None
    stopped: str | None = None
    breaker: Mapping[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """In words, for the round's events."""
        changed, pool = self.chosen.manifest["answers_changed"], self.chosen.manifest["pool"]
        heard = "" if changed is None else f"; the {self._heard} changed {changed} of {pool} answers"
        return f"{len(self.chosen.rows)} rows{heard}"

    @property
    def _heard(self) -> str:
        return "probe" if self.chosen.manifest["config"]["labelling"]["consensus"] is None else "consensus"


class Choosing:
    """Chooses for one round at a time."""

    def __init__(self, config: DaemonConfig, tools: RoundTools, place: RoundPlace) -> None:
        self._config = config
        self._tools = tools
        self._place = place
        self._pool = RoundPool(config, tools.stores, tools.embedder, tools.label)

    async def choose(self, round_: Round, say: Say) -> Found:
        """Make the pool ready, choose, and write the snapshot; the round itself stays where it is.

        Raises:
            TransientError: a component does not answer now; what was done need not be done again.
        """
        config, tools, pool = self._config, self._tools, self._pool
        labeller = await self._labeller(round_)
        if round_.kind == "evolve" and (config.rounds.refresh or labeller != round_.incumbent):
            await pool.refresh(labeller, say)
        if round_.kind == "evolve" and (config.labelling.hears_others or config.selection.by == "learned"):
            await pool.embed(say)
        if round_.kind == "evolve" and config.selection.calibrated:
            await pool.calibrate(labeller, say)
        if labeller != round_.incumbent:
            tools.fleet.propose(None)
        parent = await self._parent(round_)
        chosen = await asyncio.to_thread(
            snapshot.choose,
            tools.stores,
            tools.index,
            pool.vectors,
            tools.task,
            config,
            round_,
            parent,
            pool.refused,
            pool.calibration,
        )
        pool.forget()
        if round_.kind == "evolve" and not chosen.manifest["selected"]:
            return Found(chosen, nothing=_nothing(chosen))
        found = Found(chosen)
        if round_.kind == "evolve":
            found = await asyncio.to_thread(self._measured, round_, chosen, labeller)
        if found.stopped is None:
            leading = tools.stores.database.write  # which asks for the lease, and keeps it in these hands
            await asyncio.to_thread(snapshot.write, chosen, self._place.training(round_).snapshot, leading)
        return found

    def _measured(self, round_: Round, chosen: Snapshot, labeller: str | None) -> Found:
        measures = breaker.measure(self._tools.stores, self._config, chosen, labeller)
        kept = breaker.as_json(measures)
        found = breaker.breaches(measures)
        known = (round_.breaker or {}).get("breaches", ())
        if set(found) <= set(known):  # none; or a person has read of them, and thawed
            if found:
                log.warning("round %d goes on beyond %s: rounds were thawed", round_.number, ", ".join(found))
            return Found(chosen, breaker=kept)
        clean = self._tools.stores.retractions.last_clean(but=labeller)
        return Found(chosen, stopped=breaker.said(round_, measures, found, labeller, clean), breaker=kept)

    async def _labeller(self, round_: Round) -> str | None:
        """Who labels for the round: the incumbent, or, where that descends from a label that was taken back, the last
        version that does not. It is kept loaded until something else is proposed.
        """
        retractions = self._tools.stores.retractions
        if await asyncio.to_thread(retractions.unclean, round_.incumbent) is None:
            return round_.incumbent
        for clean in await asyncio.to_thread(retractions.clean_versions):
            self._tools.fleet.propose(clean)
            try:
                await self._tools.fleet.load(clean)
            except AdapterError as error:  # its directory is gone or spoiled
                log.warning("the last clean version is passed over for the one before: %s", error)
            else:
                return clean
        self._tools.fleet.propose(None)
        return None

    async def _parent(self, round_: Round) -> Path | None:
        if self._config.training.start_from == "base" or round_.incumbent is None:
            return None
        if await asyncio.to_thread(self._tools.stores.retractions.unclean, round_.incumbent) is not None:
            return None  # a chain cannot forget: trained anew
        return (await self._tools.fleet.version(round_.incumbent)).path


def _nothing(chosen: Snapshot) -> str:
    learned = chosen.manifest["learned"]
    if learned is not None and learned.get("nothing"):
        return str(learned["nothing"])
    found = chosen.manifest["certificate"]
    if found is not None and found["threshold"] is None:
        return str(found["reason"])
    return "no pseudo-label was selected; nothing to learn from beyond the examples"
