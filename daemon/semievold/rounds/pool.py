"""The pseudo-labels that a round could learn from: made again where they are stale, embedded, judged.

Owns which of them are stale, and the verdict on each: the consensus of the pool, where it is configured, and selection.
Not what is trained on (`semievold.rounds.snapshot`). Invariant: every pseudo-label of the pool is kept or has a reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from semievol.examples.embedding.remembered import RememberedVectors
from semievol.examples.split import asked_key
from semievol.labelling.consensus import heard
from semievol.labelling.selection import Scored, scored, select
from semievol.protocols import Embedder
from semievol.types import Example, PseudoLabel, Query, Unlabelled
from semievold.config.daemon import DaemonConfig
from semievold.store.pseudo_labels import PoolRow
from semievold.store.rounds import Membership
from semievold.store.stores import Stores

log = logging.getLogger(__name__)

EMBEDDED_AT_ONCE = 256
ASKED_BY_HOLDOUT = "a held-out example asks the same"

Label = Callable[[Sequence[Query], str | None], Awaitable[list[PseudoLabel | Unlabelled]]]
Say = Callable[[dict[str, Any]], None]
"""Is told in numbers how far a step is."""


class RoundPool:
    """Makes the pool ready for a round.

    Args:
        label: answers queries with an adapter; None is the base model.
    """

    def __init__(self, config: DaemonConfig, stores: Stores, embedder: Embedder, label: Label) -> None:
        self._config = config
        self._stores = stores
        self._embedder = embedder
        self._label = label
        self.vectors = RememberedVectors(embedder)

    async def refresh(self, incumbent: str | None, say: Say) -> None:
        """Label the pool again where an older adapter had: pseudo-labels must not outlive the model they came from.

        One that cannot be made again keeps its answer, and is named: it does not hold up the round.
        """
        labels = self._stores.pseudo_labels
        pool = await self._rows()
        stale = [row.id for row in pool if row.adapter != incumbent]
        if self._config.labelling.consensus is not None:
            # Views count by the weight of their name: an answer of a view that is gone would count as a whole one.
            present = [row.id for row in pool if row.adapter == incumbent]
            stale += await asyncio.to_thread(self._of_other_views, present)
        size = self._config.labelling.batch_size
        for start in range(0, len(stale), size):
            say({"relabelled": start, "to_relabel": len(stale)})
            old = await asyncio.to_thread(labels.load, stale[start : start + size])
            outcomes = await self._label([label.query for label in old], incumbent)
            for outcome in outcomes:
                if isinstance(outcome, Unlabelled):
                    log.warning("query %s keeps its pseudo-label: %s", outcome.query.id, outcome.reason)
            new = [outcome for outcome in outcomes if isinstance(outcome, PseudoLabel)]
            await asyncio.to_thread(labels.replace, new)

    async def embed(self, say: Say) -> None:
        """Let the consensus find the pool's vectors ready, in `vectors`.

        In slices: a stop is heard between them, and what an endpoint has given stays for the next attempt.
        """
        ids = [row.id for row in await self._rows()]
        for start in range(0, len(ids), EMBEDDED_AT_ONCE):
            say({"embedded": start, "to_embed": len(ids)})
            await asyncio.to_thread(self._remember, ids[start : start + EMBEDDED_AT_ONCE])

    def forget(self) -> None:
        """Let go of the vectors."""
        self.vectors = RememberedVectors(self._embedder)

    async def _rows(self) -> list[PoolRow]:
        return await asyncio.to_thread(self._stores.pseudo_labels.pool, self._config.rounds.max_pool)

    def _remember(self, ids: Sequence[str]) -> None:
        self.vectors.embed([label.query.question for label in self._stores.pseudo_labels.load(ids)])

    def _of_other_views(self, ids: Sequence[str]) -> list[str]:
        names = {each.name for each in self._config.labelling.configurations}
        labels = self._stores.pseudo_labels.load(ids)
        return [label.query.id for label in labels if {each.configuration for each in label.candidates} != names]


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on a pool.

    kept: the selected pseudo-labels, with the answers that are trained on.
    members: the verdict on each.
    threshold: the highest entropy (nats per token), or uncertainty, that was accepted.
    changed: how many answers the consensus changed; None: it was not asked for.
    """

    kept: Sequence[PseudoLabel] = ()
    members: tuple[Membership, ...] = ()
    threshold: float | None = None
    changed: int | None = None


def judge(stores: Stores, embedder: Embedder, config: DaemonConfig) -> Judged:
    """The whole pool through the consensus, where that is configured, and through selection; in the order of ids.

    Blocking.

    Raises:
        TransientError: the endpoint that embeds for the consensus does not answer.
    """
    rule = config.selection.of_evolve_round(1 + stores.rounds.evolved())
    rows = sorted(stores.pseudo_labels.pool(config.rounds.max_pool), key=lambda row: row.id)
    labels: dict[str, PseudoLabel] = {}
    changed: int | None = None
    if config.labelling.consensus is None and rule.by == "entropy":
        # The rows say it all; whole labels, with their candidates, are many times as large.
        judged = [Scored(row.id, row.answer, row.entropy, row.agreement) for row in rows]
    else:
        own = stores.pseudo_labels.load([row.id for row in rows])
        agreed = heard(own, training_examples(stores), config.labelling, embedder)
        labels = {label.query.id: label for label in agreed}
        judged = [scored(label, rule) for label in agreed]
        if config.labelling.consensus is not None:
            changed = sum(mine.answer != label.answer for mine, label in zip(own, agreed, strict=True))
    selection = select(judged, rule)
    selected = [labels[key] for key in selection.kept] if labels else stores.pseudo_labels.load(selection.kept)
    held_out = {asked_key(example.query) for example in stores.examples.holdout()}
    kept = [label for label in selected if asked_key(label.query) not in held_out]
    rejected = dict(selection.rejected)
    rejected |= dict.fromkeys({each.query.id for each in selected} - {each.query.id for each in kept}, ASKED_BY_HOLDOUT)
    members = tuple(
        Membership(
            each.id,
            each.id not in rejected,
            rejected.get(each.id),
            each.answer,
            labels[each.id].consensus if each.id in labels else None,
        )
        for each in judged
    )
    return Judged(kept, members, selection.threshold, changed)


def training_examples(stores: Stores) -> list[Example]:
    """What may be retrieved and trained on, in the order of ids."""
    return sorted(stores.examples.training(), key=lambda example: example.id)
