"""A panel: several adapters, each taught without some of the examples, that vote with the probe (`labelling.panel`).

What a model is sure of teaches it nothing; views that err apart were shown different things. Each seat of the panel
answers every query beside the adapter that serves, and, since it never saw them, the examples that it was taught
without: what they say of these decides what their words are worth (labelling.vote). Owns who is taught what, how a seat
answers, and the order of that; training the seats is the caller's. Invariant: the same examples, queries and seed give
the same seats and the same vote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semievol.config.labelling import Configuration, LabellingConfig, PanelConfig
from semievol.errors import DataError
from semievol.labelling.collaboration import CollaborativeLabeller
from semievol.labelling.out_of_fold import Views
from semievol.labelling.probe import Probe, fitted, folds_of
from semievol.labelling.vote import Groups, Vote, learned_vote, voted, words_of
from semievol.protocols import Vectors
from semievol.types import Example, PseudoLabel

TAUGHT = "taught"
"""The group of those who were taught: the seats, and the adapter that serves."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One adapter of the panel, before it is one. number: from 1. others: what it is taught; inside: what it is not.

    split, fold: which part of which division of the examples `inside` is.
    """

    number: int
    others: tuple[Example, ...]
    inside: tuple[Example, ...]
    split: int
    fold: int


def seats_of(examples: Sequence[Example], config: PanelConfig) -> list[Seat]:
    """Who is taught what.

    Raises:
        DataError: some seat would be taught nothing, or be worth nobody knows what.
    """
    seats: list[Seat] = []
    parts = config.adapters if config.by == "folds" else 2
    for split in range(config.adapters // parts):
        of = folds_of(examples, parts, salt=str(split) if split else "")
        for fold in range(parts):
            inside = tuple(example for example, place in zip(examples, of, strict=True) if place == fold)
            others = tuple(example for example, place in zip(examples, of, strict=True) if place != fold)
            if not inside or not others:
                raise DataError(
                    f"labelling.panel: {len(examples)} examples are too few for {config.adapters} adapters by "
                    f"{config.by}; add some, or lower panel.adapters"
                )
            seats.append(Seat(len(seats) + 1, others, inside, split, fold))
    return seats


def with_seats(labelling: LabellingConfig, adapters: Sequence[str]) -> LabellingConfig:
    """The configurations, and one for each seat: as the first that the serving adapter answers asks, of the seat."""
    asked = next(each for each in labelling.configurations if answered_by_serving(each))
    seats = [
        asked.model_copy(update={"name": name, "adapter": adapter})
        for name, adapter in zip(labelling.panel_names, adapters, strict=True)
    ]
    return labelling.model_copy(update={"configurations": (*labelling.configurations, *seats)})


def answered_by_serving(configuration: Configuration) -> bool:
    """Whether the adapter that serves answers it."""
    return configuration.adapter is None and configuration.model is None


@dataclass(frozen=True, slots=True)
class _Heard:
    """What was said of examples that nobody who spoke had been taught; shape of words: (rows, answers, kinds)."""

    words: np.ndarray
    truth: list[int]
    folds: list[int]


async def decided(
    views: Views,
    examples: Sequence[Example],
    seats: Sequence[Seat],
    adapters: Sequence[str],
    pool: Sequence[PseudoLabel],
    *,
    serving: bool,
) -> tuple[list[PseudoLabel], Vote]:
    """The pseudo-labels after the vote, and what decided.

    Args:
        views: what answers; `labelling` without the seats.
        examples: the labelled ones, which the seats share.
        seats: of the panel.
        adapters: theirs, loaded, in the same order.
        pool: as all of `with_seats` made them.
        serving: whether an adapter serves; else the base model's word is not that of one who was taught.

    Raises:
        DataError: nothing could be asked of the examples.
        TransientError: generator or embedder did not answer.
    """
    labelling = views.labelling
    apart = [await _asked_apart(views, seat, adapter) for seat, adapter in zip(seats, adapters, strict=True)]
    given = {example.answer for example in examples}
    said = {each.answer for label in (*pool, *(label for own in apart for label in own)) for each in label.candidates}
    answers = sorted(given | {answer for answer in said if answer is not None})

    def weighed() -> tuple[list[PseudoLabel], Vote]:
        column = {answer: place for place, answer in enumerate(answers)}
        probes = _probes(views, examples, seats)
        # By example: each split asks it in a fold of its own, and weights that saw one of its rows know its answer.
        fold_of = {example.id: seat.fold for seat in seats if seat.split == 0 for example in seat.inside}
        heard: list[_Heard] = []
        kinds: tuple[str, ...] = ()
        for seat, own in zip(seats, apart, strict=True):
            probe = probes[seat.split][seat.fold] if probes else None
            kinds, words = words_of(own, _groups(labelling, True), answers, probe, _vectors(views, own, probe))
            golds = {example.id: column[example.answer] for example in seat.inside}
            keys = [label.query.id for label in own]
            heard.append(_Heard(words, [golds[key] for key in keys], [fold_of[key] for key in keys]))
        words = np.concatenate([each.words for each in heard])
        if not len(words):
            raise DataError("labelling.panel: no example could be asked, so that nothing says what a view is worth")
        truth = np.array([place for each in heard for place in each.truth], dtype=np.int64)
        folds = np.array([fold for each in heard for fold in each.folds], dtype=np.int64)
        vote = learned_vote(kinds, words, truth, folds, seats[-1].split + 1)
        whole = _whole(views, examples)
        vectors = _vectors(views, pool, whole)
        _, said = words_of(pool, _groups(labelling, serving, labelling.panel_names), answers, whole, vectors)
        return voted(pool, vote.chances(said), answers, whole, vectors), vote

    return await asyncio.to_thread(weighed)


async def _asked_apart(views: Views, seat: Seat, adapter: str) -> list[PseudoLabel]:
    """What is said of the examples that a seat was taught without, by it and by views that are shown its others."""
    index = await asyncio.to_thread(views.index, seat.others)
    labeller = CollaborativeLabeller(
        views.generator, index, views.task, views.labelling, views.seed, equality=views.equality
    )
    outcomes = await labeller.label([example.query for example in seat.inside], adapter)
    return [outcome for outcome in outcomes if isinstance(outcome, PseudoLabel)]


def _groups(labelling: LabellingConfig, serving: bool, seats: Sequence[str] = ()) -> Groups:
    """Those who were taught speak together, each other configuration for itself."""
    own = [each.name for each in labelling.configurations if answered_by_serving(each)]
    groups = {TAUGHT: (*(own if serving else ()), *seats)}
    others = [each.name for each in labelling.configurations if not answered_by_serving(each)]
    return groups | {name: (name,) for name in others}


def _probes(views: Views, examples: Sequence[Example], seats: Sequence[Seat]) -> list[tuple[Probe, ...]]:
    """Of each split the probes of its parts, which know the other parts alone; none where no probe is configured."""
    if views.labelling.probe is None or views.embedder is None:
        return []
    vectors = views.embedder.embed([example.query.question for example in examples])
    found = []
    for split in range(seats[-1].split + 1):
        of = {example.id: seat.fold for seat in seats if seat.split == split for example in seat.inside}
        folds = np.array([of[example.id] for example in examples], dtype=np.int64)
        found.append(fitted(vectors, examples, folds).by_fold)
    return found


def _whole(views: Views, examples: Sequence[Example]) -> Probe | None:
    if views.labelling.probe is None or views.embedder is None:
        return None
    return fitted(views.embedder.embed([example.query.question for example in examples]), examples).whole


def _vectors(views: Views, labels: Sequence[PseudoLabel], probe: Probe | None) -> Vectors | None:
    if probe is None or views.embedder is None or not labels:
        return None
    return views.embedder.embed([label.query.question for label in labels])
