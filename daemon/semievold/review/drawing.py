"""Which questions are put before people: at random for a gate that waits for labels, the most useful ones to teach.

Owns who may be drawn, reading the state alone. Invariants: a gate's questions are random among those that were first
asked after the round took its snapshot and that neither model was taught, and what teaches is taken from none of those:
it would leave the easy ones to the gate. Nothing is drawn whose answer is known, or that is nearly what was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from semievol.examples.near import near_key
from semievol.examples.split import asked_key
from semievol.types import PseudoLabel, Query
from semievold.review.chances import Chances
from semievold.review.usefulness import SecretOrder, uncertainty_of, usefulness
from semievold.rounds.fresh import FreshLabels
from semievold.store.pseudo_labels import PoolRow
from semievold.store.review.items import Draft
from semievold.store.rounds import Round
from semievold.store.shadow_pairs import ShadowPair
from semievold.store.stores import Stores

WEIGHED = 4
"""So many times as many as are wanted are looked at whole: with candidates and neighbours they are large."""


OTHERS = 5
"""With shadow pairs a gate has one place in so many for what is no pair."""


class _Asked(NamedTuple):
    near: str
    asked: str


@dataclass(frozen=True, slots=True)
class _Question:
    """The queries that ask it; the first of them stands for all."""

    key: str
    rows: tuple[PoolRow, ...]

    def uncertainty(self, chances: Mapping[str, float]) -> float:
        """Of its least sure query; where nobody has learned the chance that it is right, by entropy and agreement."""
        return max(
            1.0 - chances[row.id] if row.id in chances else uncertainty_of(row.entropy, row.agreement)
            for row in self.rows
        )


class Drawing:
    """Draws for one workload. Blocking.

    Args:
        look_at: among so many of the newest answered queries.
        pairs: whether live queries are answered by both versions, and where they differ a label is all the evidence
            that there is (a gain of any size is asked for): then most of what is drawn for a gate is left to those.
        chances: says how likely answers are right, where that is learned; what teaches is then ordered by it.
    """

    def __init__(
        self,
        stores: Stores,
        fresh: FreshLabels,
        order: SecretOrder,
        look_at: int,
        *,
        pairs: bool = False,
        chances: Chances | None = None,
    ) -> None:
        self._stores = stores
        self._fresh = fresh
        self._order = order
        self._look_at = look_at
        self._pairs = pairs
        self._chances = chances

    def for_gate(self, round_: Round, most: int, waiting: int = 0) -> list[Draft]:
        """Questions for the gate of a round, in random order: first shadow pairs whose answers differ, for where they
        are the same a label says nothing of the difference. None of them where nobody knows what was taught.

        `waiting`: how many wait already; with pairs, others fill no more than a fifth.
        """
        taken_at, taught = self._fresh.taken_at(round_), self._fresh.taught_in(round_)
        if taken_at is None or taught is None:
            return []
        differing = self._differing(round_, taught)[:most] if self._pairs else []
        others = most - len(differing)
        if self._pairs:
            others = min(others, max(0, (most + waiting) // OTHERS - waiting))
        keys = {draft.key for draft in differing}
        questions = self._questions(lambda row: row.created_at > taken_at, taught)
        questions = [each for each in questions if each.key not in keys]
        questions.sort(key=lambda question: self._order.place("gate", round_.number, question.key))
        some = questions[:others]
        queries = self._stores.pseudo_labels.asked([each.rows[0].id for each in some], _itself)
        return differing + [
            Draft(query, "gate", times=len(each.rows), round=round_.number)
            for each in some
            if (query := queries.get(each.rows[0].id)) is not None
        ]

    def _differing(self, round_: Round, taught: frozenset[str]) -> list[Draft]:
        """Shadow pairs of which a label says which version is right more often, in random order."""
        pairs = self._stores.shadow_pairs.disagreements(round_.number)
        asked = {pair.key: asked_key(pair.query) for pair in pairs}
        known = self._stores.examples.known(set(asked.values())) | taught
        drawn = self._stores.reviews.drawn(list(asked), over=False)
        wanted = [pair for pair in pairs if asked[pair.key] not in known and pair.key not in drawn]
        wanted.sort(key=lambda pair: self._order.place("gate", round_.number, pair.key))
        return [Draft(pair.query, "gate", self._shown(pair), round=round_.number, differing=True) for pair in wanted]

    def _shown(self, pair: ShadowPair) -> tuple[str, ...]:
        """Both answers, or none: one alone would be a proposal."""
        if pair.incumbent is None or pair.candidate is None:
            return ()
        return self._order.shuffled(pair.key, (pair.incumbent, pair.candidate))

    def to_teach(self, open_round: Round | None, most: int) -> list[Draft]:
        """Questions whose labels would teach most, the most useful first."""
        taken_at = None if open_round is None else self._fresh.taken_at(open_round)
        questions = self._questions(lambda row: taken_at is None or row.created_at <= taken_at)
        rows = [row for each in questions for row in each.rows]
        chances = {} if self._chances is None else self._chances.of(rows)
        questions.sort(key=lambda each: (-usefulness(each.uncertainty(chances), len(each.rows), None), each.key))
        some = {each.rows[0].id: each for each in questions[: WEIGHED * most]}
        labels = self._stores.pseudo_labels.load(list(some))
        drafts = [self._teaching(label, some[label.query.id], chances) for label in labels]
        return sorted(drafts, key=lambda draft: -draft.usefulness)[:most]

    def _teaching(self, label: PseudoLabel, question: _Question, chances: Mapping[str, float]) -> Draft:
        nearest = max((similarity for _, similarity in label.neighbours), default=None)
        uncertainty = question.uncertainty(chances)
        said = [each.answer for each in label.candidates if each.answer is not None]
        why = {
            "entropy": label.entropy if math.isfinite(label.entropy) else None,
            "agreement": label.agreement,
            "nearest_example": nearest,
        }
        if label.query.id in chances:
            why["right"] = chances[label.query.id]
        return Draft(
            label.query,
            "teach",
            candidates=self._order.shuffled(question.key, said),
            times=len(question.rows),
            why=why,
            usefulness=usefulness(uncertainty, len(question.rows), nearest),
        )

    def _questions(self, wanted: Callable[[PoolRow], bool], taught: Iterable[str] = ()) -> list[_Question]:
        """What the newest queries ask, near copies folded: which is not known, taught nor drawn."""
        rows = sorted(self._stores.pseudo_labels.pool(self._look_at), key=lambda row: (row.created_at, row.id))
        asked = self._stores.pseudo_labels.asked([row.id for row in rows], _asked)
        folded: dict[str, list[PoolRow]] = {}
        for row in rows:
            if row.id in asked:
                folded.setdefault(asked[row.id].near, []).append(row)
        known = self._stores.examples.known({each.asked for each in asked.values()}) | set(taught)
        told = {each.near for each in asked.values() if each.asked in known}
        told |= self._stores.reviews.drawn(list(folded), over=False)
        # Of copies the first says when it was asked: what came again after a snapshot is not new.
        return [_Question(key, tuple(of)) for key, of in folded.items() if key not in told and wanted(of[0])]


def _asked(query: Query) -> _Asked:
    return _Asked(near_key(query), asked_key(query))


def _itself(query: Query) -> Query:
    return query
