"""The pseudo-labels that a round could learn from: made again where they are stale, embedded, judged.

Owns which of them are stale, and the verdict on each: the consensus of the pool, where it is configured, and selection.
Not what is trained on (`semievold.rounds.snapshot`). Invariant: every pseudo-label of the pool is kept or has a reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from semievol.examples.embedding.remembered import RememberedVectors
from semievol.examples.near import kind_of, near_copies, near_key
from semievol.examples.split import asked_key, one_a_question
from semievol.labelling.certificate import Certificate
from semievol.labelling.hearing import heard
from semievol.labelling.learned import Learned, said_of
from semievol.labelling.selection import Scored, Selection, judge_calibration, scored, select, select_at_risk
from semievol.protocols import Embedder
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.types import Example, PseudoLabel, Query, Unlabelled
from semievold.config.daemon import DaemonConfig
from semievold.rounds.learning import Lesson, learn
from semievold.rounds.shares import beyond_share
from semievold.store.feedback import Word
from semievold.store.pseudo_labels import PoolRow
from semievold.store.rounds import Membership
from semievold.store.stores import Stores
from semievold.streams.protocol import CLIENT_HEADER

log = logging.getLogger(__name__)

EMBEDDED_AT_ONCE = 256
NAMED = 20
"""So many of those left out are named in the log."""
ASKED_BY_HOLDOUT = "a held-out example asks the same"
ASKED_NEARLY = "another query of the pool asks nearly the same"
BEYOND_SHARE = "its source has its share of the round"
ASKED_BEFORE = "another query of the pool asks the same"
GONE = "the task has no such answer any more"
DOUBTED = "a client says that the answer is wrong"
TAKEN_BACK = "it descends from a label that was taken back"
QUARANTINED = "a round that was rolled back had learned this answer"
NOTHING_LEARNED = "too few calibration examples to learn from who is right"
STALE = "an older adapter made it, and the serving one cannot be asked"

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
        self.refused: dict[str, str] = {}
        """Stale labels that could not be made again, and why: they are not learned from."""
        self.calibration: list[PseudoLabel] = []
        """What was answered to the examples that selection is calibrated on."""

    async def refresh(self, incumbent: str | None, say: Say) -> None:
        """Label the pool again where an older adapter had: pseudo-labels must not outlive the model they came from.

        One that cannot be made again is named and left out (`refused`): it does not hold up the round.
        """
        labels = self._stores.pseudo_labels
        self.refused = {}
        pool = await self._rows()
        ids = [row.id for row in pool]
        unclean = await asyncio.to_thread(self._stores.retractions.unclean_labels, ids)
        stale = [row.id for row in pool if row.adapter != incumbent or row.id in unclean]
        if self._config.labelling.hears_others or self._config.selection.calibrated:
            # Views count by the weight of their name: an answer of a view that is gone would count as a whole one. And
            # what is certified are answers of the present views, as the calibration examples get.
            present = [row.id for row in pool if row.adapter == incumbent and row.id not in unclean]
            stale += await asyncio.to_thread(self._of_other_views, present)
        size = self._config.labelling.batch_size
        for start in range(0, len(stale), size):
            say({"relabelled": start, "to_relabel": len(stale)})
            old = await asyncio.to_thread(labels.load, stale[start : start + size])
            outcomes = await self._label([label.query for label in old], incumbent)
            for outcome in outcomes:
                if isinstance(outcome, Unlabelled):
                    log.warning("query %s is left out of the round: %s", outcome.query.id, outcome.reason)
                    self.refused[outcome.query.id] = outcome.reason
            new = [outcome for outcome in outcomes if isinstance(outcome, PseudoLabel)]
            await asyncio.to_thread(labels.replace, new)

    async def calibrate(self, incumbent: str | None, say: Say) -> None:
        """Answer the calibration examples as the pool was answered, one a question; nothing of it is stored.

        What can never be answered is left out.
        """
        known = await asyncio.to_thread(self._stores.examples.calibration)
        queries = [example.query for example in one_a_question(known)]
        self.calibration = []
        size = self._config.labelling.batch_size
        for start in range(0, len(queries), size):
            say({"calibrated": start, "to_calibrate": len(queries)})
            outcomes = await self._label(queries[start : start + size], incumbent)
            self.calibration += [outcome for outcome in outcomes if isinstance(outcome, PseudoLabel)]

    async def embed(self, say: Say) -> None:
        """Let the consensus find the pool's vectors ready, in `vectors`.

        In slices: a stop is heard between them, and what an endpoint has given stays for the next attempt.
        """
        ids = [row.id for row in await self._rows()]
        for start in range(0, len(ids), EMBEDDED_AT_ONCE):
            say({"embedded": start, "to_embed": len(ids)})
            await asyncio.to_thread(self._remember, ids[start : start + EMBEDDED_AT_ONCE])

    def forget(self) -> None:
        """Let go of the vectors, and of the calibration answers."""
        self.vectors = RememberedVectors(self._embedder)
        self.calibration = []

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
    threshold: the highest entropy (nats per token), or uncertainty, that was accepted; theta: the quantile that it is,
    where a quantile decided.
    changed: how many answers the probe and the consensus changed; None: neither was asked.
    certificate: what is known of the error of what was selected; None: no risk was stated.
    learned: what the learned confidence is worth and expects, or why there is `nothing`; None: not ranked by it.
    confidence: it itself, where there is one.
    """

    kept: Sequence[PseudoLabel] = ()
    members: tuple[Membership, ...] = ()
    threshold: float | None = None
    changed: int | None = None
    certificate: Certificate | None = None
    learned: Mapping[str, Any] | None = None
    theta: float | None = None
    confidence: Learned | None = None


def judge(
    stores: Stores,
    embedder: Embedder,
    task: Task,
    config: DaemonConfig,
    refused: Mapping[str, str] | None = None,
    calibration: Sequence[PseudoLabel] = (),
) -> Judged:
    """The whole pool through the consensus, where that is configured, and through selection; in the order of ids.

    Of queries that ask the same, or nearly, one counts: what is sent often has no more say than what is sent once. And
    one source has its share of what is selected, and no more.

    Blocking. `refused` are stale and could not be labelled again. `calibration`: answers to the calibration examples,
    which are heard in the consensus as if nobody knew their truth. What descends from a label that was taken back is
    neither heard nor does it stand for its copies, nor does it move a threshold.

    Raises:
        TransientError: the endpoint that embeds for the consensus does not answer.
    """
    rule = config.selection.of_evolve_round(1 + stores.rounds.evolved())
    pool = sorted(stores.pseudo_labels.pool(config.rounds.max_pool), key=lambda row: row.id)
    asked = stores.pseudo_labels.asked([row.id for row in pool], lambda query: _Asked(near_key(query), _source(query)))
    unclean = stores.retractions.unclean_labels([row.id for row in pool])
    calibration = list(stores.retractions.clean(calibration))
    clean = [row for row in pool if row.id not in unclean]
    copies = _copies(clean, asked, refused or {})
    rows = [row for row in clean if row.id not in copies]
    labels: dict[str, PseudoLabel] = {}
    changed: int | None = None
    lesson: Lesson | None = None
    model: Learned | None = None
    near: set[str] = set()
    if not config.labelling.hears_others and rule.by == "entropy":
        # The rows say it all; whole labels, with their candidates, are many times as large.
        judged = [Scored(row.id, row.answer, row.entropy, row.agreement) for row in rows]
    else:
        own = stores.pseudo_labels.load([row.id for row in rows])
        near = _near(own, rows, config, embedder, refused or {})
        own = [label for label in own if label.query.id not in near]
        rows = [row for row in rows if row.id not in near]
        known = [each for each in training_examples(stores, config) if task.knows(each.answer, each.query)]
        both = heard([*own, *calibration], known, config.labelling, embedder)
        agreed, calibration = both[: len(own)], both[len(own) :]
        if rule.by == "learned":
            lesson = learn(agreed, calibration, _truth(stores, task), known, task, config, embedder)
            agreed, calibration, model = lesson.labels, lesson.certifying, lesson.model
        labels = {label.query.id: label for label in agreed}
        judged = [scored(label, rule) for label in agreed]
        if config.labelling.hears_others:
            changed = sum(mine.answer != label.answer for mine, label in zip(own, agreed, strict=True))
    if lesson is not None and model is None:
        selection = Selection((), dict.fromkeys((each.id for each in judged), NOTHING_LEARNED), 0.0)
    elif rule.risk is None:
        selection = select(judged, rule)
    else:
        certain = judge_calibration(calibration, _truth(stores, task), AnswerEquality(task, embedder), rule)
        certified = rule
        if lesson is not None:  # of the calibration labels that it asks for one half certifies
            risk = rule.risk.model_copy(update={"calibration_share": rule.risk.calibration_share / 2})
            certified = rule.model_copy(update={"risk": risk})
        selection = select_at_risk(judged, certain, certified)
    selected = [labels[key] for key in selection.kept] if labels else stores.pseudo_labels.load(selection.kept)
    held_out = {asked_key(each.query) for each in [*stores.examples.holdout(), *stores.examples.calibration()]}
    words = stores.feedback.open_words()
    quarantined = stores.lineage.quarantined() if config.rollout.quarantine else {}
    rejected, kept = dict(selection.rejected), []
    for label in selected:
        if label.query.id in (refused or {}):
            rejected[label.query.id] = STALE
        elif asked_key(label.query) in held_out:
            rejected[label.query.id] = ASKED_BY_HOLDOUT
        elif label.answer is None or not task.knows(label.answer, label.query):
            rejected[label.query.id] = GONE
        elif any(word.contradicts(Word(label.answer)) for word in words.get(asked_key(label.query), ())):
            rejected[label.query.id] = DOUBTED
        elif label.answer in quarantined.get(label.query.id, ()):
            rejected[label.query.id] = QUARANTINED
        else:
            kept.append(label)
    beyond = _beyond({label.query.id for label in kept}, judged, asked, config)
    rejected.update(dict.fromkeys(beyond, BEYOND_SHARE))
    kept = [label for label in kept if label.query.id not in beyond]
    members = [
        Membership(
            each.id,
            each.id not in rejected,
            rejected.get(each.id),
            each.answer,
            labels[each.id].consensus if each.id in labels else None,
        )
        for each in judged
    ]
    seen = {row.id: row for row in pool}
    depths = stores.lineage.depths()
    again = dict.fromkeys(copies, ASKED_BEFORE) | dict.fromkeys(near, ASKED_NEARLY) | dict.fromkeys(unclean, TAKEN_BACK)
    members += [Membership(row.id, False, again[row.id], row.answer, None) for row in pool if row.id in again]
    members = [
        replace(each, revision=seen[each.query_id].revision, depth=1 + depths.get(seen[each.query_id].adapter, 0))
        for each in sorted(members, key=lambda member: member.query_id)
    ]
    said: dict[str, Any] | None = None
    if lesson is not None:
        chosen = [label.query.id for label in kept]
        said = {"nothing": lesson.nothing} if model is None else said_of(model, list(labels.values()), chosen)
    certificate, theta = selection.certificate, selection.theta
    return Judged(kept, tuple(members), selection.threshold, changed, certificate, said, theta, model)


def _truth(stores: Stores, task: Task) -> dict[str, Example]:
    """The calibration examples whose answers the task still has, by id."""
    return {each.id: each for each in stores.examples.calibration() if task.knows(each.answer, each.query)}


class _Asked(NamedTuple):
    """What a query asks, however it is spelled (`near_key`), and who asked (empty: nobody knows)."""

    key: str
    source: str


def _source(query: Query) -> str:
    client = query.metadata.get(CLIENT_HEADER)
    return client if isinstance(client, str) else ""


def _in_order(pool: Iterable[PoolRow], refused: Collection[str]) -> list[PoolRow]:
    """Those first that stand for their copies: which came first, or alone have an answer that can be learned."""
    return sorted(pool, key=lambda row: (row.id in refused, row.answer is None, row.created_at, row.id))


def _copies(pool: Sequence[PoolRow], asked: Mapping[str, _Asked], refused: Collection[str]) -> set[str]:
    """The ids of those that ask what another asks."""
    first: dict[str, str] = {}
    for row in _in_order(pool, refused):
        first.setdefault(asked[row.id].key if row.id in asked else row.id, row.id)
    return {row.id for row in pool} - set(first.values())


def _beyond(kept: Set[str], judged: Sequence[Scored], asked: Mapping[str, _Asked], config: DaemonConfig) -> set[str]:
    """Of the `kept` ids those that their source has beyond its share; its surest stay."""
    ranks = {each.id: (each.entropy if each.uncertainty is None else each.uncertainty, each.id) for each in judged}
    sources = {key: asked[key].source for key in kept if key in asked and asked[key].source}
    ranked = sorted(kept, key=lambda key: ranks[key])
    return beyond_share(ranked, sources, config.rounds.max_source_share, config.trigger.min_new)


def _near(
    own: Sequence[PseudoLabel],
    rows: Sequence[PoolRow],
    config: DaemonConfig,
    embedder: Embedder,
    refused: Collection[str],
) -> set[str]:
    """The ids of those that ask nearly what another asks, where the consensus needs the vectors anyway."""
    similarity = config.rounds.near_similarity
    if similarity is None or not config.labelling.hears_others:
        return set()
    labels = {label.query.id: label for label in own}
    ordered = [labels[row.id] for row in _in_order(rows, refused) if row.id in labels]
    vectors = embedder.embed([label.query.question for label in ordered])
    found = near_copies(vectors, [kind_of(label.query, label.answer) for label in ordered], similarity)
    return {ordered[row].query.id for row in found}


def training_examples(stores: Stores, config: DaemonConfig) -> list[Example]:
    """What a round may learn from, in the order of ids: of one client's feedback no more than its share, first come
    first served, unless feedback is trusted.
    """
    found = sorted(stores.examples.training(), key=lambda example: example.id)
    if config.gateway.feedback.trusted:
        return found
    held = {example.id for example in found}
    givers = {key: client for key, client in stores.feedback.givers().items() if key in held}
    ranked = [*givers, *(held - givers.keys())]
    beyond = beyond_share(ranked, givers, config.rounds.max_source_share, config.trigger.min_examples)
    if beyond:
        log.info(
            "%d examples by clients' feedback are left out of the round: more than one client's share "
            "(rounds.max_source_share)",
            len(beyond),
        )
    return [example for example in found if example.id not in beyond]


def known_to(task: Task, examples: Sequence[Example]) -> tuple[list[Example], list[str]]:
    """The examples whose answers the task still has, and the ids of the others, which are named in the log."""
    known = [example for example in examples if task.knows(example.answer, example.query)]
    gone = sorted({example.id for example in examples} - {example.id for example in known})
    if gone:
        shown = ", ".join(gone[:NAMED]) + (", ..." if len(gone) > NAMED else "")
        log.warning("%d examples are left out, their answers are none of the task's any more: %s", len(gone), shown)
    return known, gone
