"""How likely stored pseudo-labels are right, by the confidence that the last round learned.

Owns its use outside of rounds: labels made since then are asked about as the round asked about its pool. Decides
nothing: it orders what is put before people. Blocking; embeds what it has not seen. Invariant: an endpoint that embeds
and is away holds up nobody's question.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semievol.errors import DataError, TransientError
from semievol.examples.embedding.remembered import RememberedVectors
from semievol.labelling.evidence import evidence
from semievol.labelling.hearing import heard
from semievol.labelling.learned import Learned
from semievol.protocols import Embedder
from semievol.tasks.task import Task
from semievol.types import Example
from semievold.config.daemon import DaemonConfig
from semievold.rounds.learning import Nearness
from semievold.rounds.pool import training_examples
from semievold.store.pseudo_labels import PoolRow
from semievold.store.stores import Stores

log = logging.getLogger(__name__)


REFIT_S = 60.0
"""So often at most what the examples say is learned anew: labels come every few seconds, and an order may be so old."""
AWAY_S = 60.0
"""So long an endpoint that did not answer is not asked again: each try may wait for its whole patience."""


@dataclass(frozen=True, slots=True)
class _Near:
    """What the examples said when they last were looked through. round: whose confidence was asked then."""

    round: int
    changed: float | None
    at: float
    examples: list[Example]
    said: Nearness


@dataclass(frozen=True, slots=True)
class _Known:
    """The chance that one pseudo-label is right; None: it has none. revision: the label's, and when it was made."""

    revision: tuple[float, int]
    question: str
    right: float | None


class Chances:
    """Of one workload.

    Args:
        refit_s: how old what the examples say may become while they change.
        away_s: how long an endpoint that did not answer is left alone.
    """

    def __init__(
        self,
        stores: Stores,
        task: Task,
        config: DaemonConfig,
        embedder: Embedder,
        *,
        refit_s: float = REFIT_S,
        away_s: float = AWAY_S,
    ) -> None:
        self._stores = stores
        self._task = task
        self._config = config
        self._vectors = RememberedVectors(embedder)
        self._refit_s = refit_s
        self._away_s = away_s
        self._near: _Near | None = None
        self._known: dict[str, _Known] = {}
        self._away_until: float | None = None
        """None: the endpoint answered when it was last asked."""
        self._learned: tuple[object, tuple[int, dict[str, Any]] | None] | None = None
        """The newest round and its state, and what was learned by then."""
        self._unfit: int | None = None
        """The round whose confidence is of other views than the present ones."""

    def of(self, rows: Sequence[PoolRow]) -> dict[str, float]:
        """{query id: the chance that its answer is right}; nothing where no round has learned it of these views, and
        while the endpoint that embeds does not answer.
        """
        if self._away_until is not None and time.monotonic() < self._away_until:
            return {}
        try:
            found = self._of(rows)
        except TransientError as error:
            if self._away_until is None:
                log.warning("questions that teach are ordered by entropy until the embedder answers again: %s", error)
            self._away_until = time.monotonic() + self._away_s
            return {}
        self._away_until = None
        return found

    def _of(self, rows: Sequence[PoolRow]) -> dict[str, float]:
        found = self._confidence()
        if found is None or found[0] == self._unfit or not rows:
            return {}
        number, values = found
        near = self._nearness(number)
        revisions = {row.id: (row.created_at, row.revision) for row in rows}
        known = {
            id_: self._known[id_]
            for id_, revision in revisions.items()
            if id_ in self._known and self._known[id_].revision == revision
        }
        if self._config.labelling.consensus is not None and len(known) < len(revisions):
            known = {}  # each listens to all others: what is new may change what was answered before
        try:
            known |= self._said(values, near, {id_: at for id_, at in revisions.items() if id_ not in known})
        except DataError as error:
            log.warning("questions that teach are ordered by entropy until a round has learned anew: %s", error)
            self._unfit = number
            known = {}
        self._known = known
        asked = [example.query.question for example in near.examples]
        self._vectors.keep([*asked, *(each.question for each in known.values())])
        return {id_: each.right for id_, each in known.items() if each.right is not None}

    def _said(self, values: dict[str, Any], near: _Near, revisions: dict[str, tuple[float, int]]) -> dict[str, _Known]:
        """What was learned, said of the present labels of these queries."""
        if not revisions:
            return {}
        labelling = self._config.labelling
        stored = self._stores.pseudo_labels.load(list(revisions))
        labels = heard(stored, near.examples, labelling, self._vectors, near.said.probe)
        said = Learned.from_json(values).said_of(labels, *evidence(labels, labelling, near.said.around(labels)))
        unread = {id_: _Known(at, "", None) for id_, at in revisions.items()}
        return unread | {
            each.query.id: _Known(revisions[each.query.id], each.query.question, each.right) for each in said
        }

    def _confidence(self) -> tuple[int, dict[str, Any]] | None:
        """What rounds have learned; looked for again where a round has begun or moved on, for their snapshots are
        large.
        """
        newest = self._stores.rounds.newest()
        if self._learned is None or self._learned[0] != newest:
            self._learned = newest, self._stores.rounds.confidence()
        return self._learned[1]

    def _nearness(self, number: int) -> _Near:
        """The examples that the task still knows, and what they say; a probe is fitted where they have changed."""
        changed, now, old = self._stores.examples.last_change(), time.monotonic(), self._near
        if old is not None and old.round == number and (old.changed == changed or now < old.at + self._refit_s):
            return old
        self._known = {}
        given = training_examples(self._stores, self._config)
        known = [each for each in given if self._task.knows(each.answer, each.query)]
        self._near = _Near(number, changed, now, known, Nearness(known, self._task, self._vectors))
        return self._near
