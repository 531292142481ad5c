"""Examples answered as queries are, by views that never saw the answers of their fold.

A fold's neighbours, probe and consensus know the other folds' examples alone, and so does the adapter that answers
where the serving one would: it was taught like that one, without the fold. What they say of examples whose truth is
known is what the learned confidence is learned from. Owns the order of that; training a fold's adapter is the caller's.
Invariant: the same examples, queries and seed give the same lesson.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from semievol.config.method import LabellingConfig
from semievol.errors import DataError
from semievol.examples.resident import ResidentExampleIndex
from semievol.labelling.collaboration import CollaborativeLabeller
from semievol.labelling.evidence import Surroundings, evidence, surroundings
from semievol.labelling.hearing import heard
from semievol.labelling.learned import LEAST, Learned, Lesson, learned, too_few
from semievol.labelling.probe import FittedProbe, Probe, fitted, folds_of
from semievol.protocols import Embedder, ExampleIndex, Generator
from semievol.tasks.equality import AnswerEquality, is_correct
from semievol.tasks.task import Task
from semievol.types import Example, PseudoLabel


class Taught(Protocol):
    """Makes the adapters of folds."""

    async def teach(self, fold: int, others: Sequence[Example], inside: Sequence[Example]) -> str:
        """The name of a loaded adapter that saw the `others` alone, and none of the fold."""
        ...

    async def forget(self, adapter: str) -> None:
        """The fold is answered."""
        ...


@dataclass(frozen=True, slots=True)
class Views:
    """What answers, and what is known of nearness.

    embedder None: no neighbours are asked for, and nothing is known of nearness.
    closed: an answer means the same for every query, so that near questions' answers are evidence.
    """

    generator: Generator
    task: Task
    labelling: LabellingConfig
    equality: AnswerEquality
    embedder: Embedder | None
    seed: int
    closed: bool

    def index(self, examples: Sequence[Example], neighbours: int = 0) -> ExampleIndex | None:
        """Over these examples; None where no view shows any, nor the caller so many."""
        if self.embedder is None or not (neighbours or any(each.neighbours for each in self.labelling.configurations)):
            return None
        index = ResidentExampleIndex(self.embedder)
        index.upsert(examples)
        return index

    def probe(self, examples: Sequence[Example], folds: int) -> FittedProbe | None:
        """Blocking: embeds."""
        if self.embedder is None or not self.closed:
            return None
        vectors = self.embedder.embed([example.query.question for example in examples])
        return fitted(vectors, examples, folds_of(examples, folds))

    def near(
        self, labels: Sequence[PseudoLabel], examples: Sequence[Example], probe: Probe | None
    ) -> Surroundings | None:
        """Blocking: embeds."""
        if self.embedder is None or probe is None:
            return None
        vectors = self.embedder.embed([label.query.question for label in labels])
        others = self.embedder.embed([example.query.question for example in examples])
        return surroundings(vectors, examples, others, probe)


def uses_serving(labelling: LabellingConfig) -> bool:
    """Whether the adapter that serves answers any view, so that a fold needs one of its own."""
    mine = [each for each in labelling.configurations if each.adapter is None and each.model is None]
    several = sum(each.samples for each in labelling.configurations) > 1
    return bool(mine) or (labelling.justify and several)


async def lesson_of(
    views: Views,
    examples: Sequence[Example],
    folds: int,
    taught: Taught | None,
    probe: FittedProbe | None,
    pool: Sequence[PseudoLabel] = (),
) -> Lesson:
    """What the examples teach about being right.

    Args:
        views: what answers.
        examples: the labelled ones, at least as many as there are folds.
        folds: how many.
        taught: makes a fold's adapter; None: the base model answers.
        probe: of the examples, by the same folds.
        pool: whose questions each fold's consensus knows, as the one that labels them does; not what was answered to
            them: what answered was taught the fold's truth, and was shown it as a neighbour.

    Raises:
        DataError: no two of them ask different questions.
        TransientError: generator or embedder did not answer.
    """
    of = folds_of(examples, folds)
    lessons: list[Lesson] = []
    listens = views.labelling.consensus is not None
    questions = [replace(label, answer=None, candidates=()) for label in pool if listens]
    for fold in range(folds):
        inside = [example for example, place in zip(examples, of, strict=True) if place == fold]
        others = [example for example, place in zip(examples, of, strict=True) if place != fold]
        if not inside or not others:
            continue
        adapter = None if taught is None else await taught.teach(fold, others, inside)
        index = await asyncio.to_thread(views.index, others)
        labeller = CollaborativeLabeller(
            views.generator, index, views.task, views.labelling, views.seed, equality=views.equality
        )
        try:
            outcomes = await labeller.label([example.query for example in inside], adapter)
        finally:
            if taught is not None and adapter is not None:
                await taught.forget(adapter)
        own = [outcome for outcome in outcomes if isinstance(outcome, PseudoLabel) and outcome.answer is not None]
        known = None if probe is None else probe.by_fold[fold]
        lessons.append(await asyncio.to_thread(_of_fold, views, own, questions, inside, others, known, fold))
    if not lessons:
        raise DataError(too_few(0))
    return Lesson.together(lessons)


def _of_fold(
    views: Views,
    own: Sequence[PseudoLabel],
    questions: Sequence[PseudoLabel],
    inside: Sequence[Example],
    others: Sequence[Example],
    probe: Probe | None,
    fold: int,
) -> Lesson:
    listened = heard([*own, *questions], others, views.labelling, views.embedder, probe)[: len(own)]
    names, rows = evidence(listened, views.labelling, views.near(listened, others, probe))
    truth = {example.id: example for example in inside}
    golds = [gold for example in inside for gold in example.answers]
    same = views.equality.among([*(label.answer for label in listened), *golds])
    right = [is_correct(label.answer, truth[label.query.id], same) for label in listened]
    return Lesson(names, rows, np.array(right, dtype=bool), np.full(len(listened), fold, dtype=np.int64))


async def sure(
    views: Views, examples: Sequence[Example], pool: Sequence[PseudoLabel], folds: int, taught: Taught | None
) -> tuple[list[PseudoLabel], Learned]:
    """The pseudo-labels after they have listened to each other, each with the probability that it is right.

    Args:
        views: what answered them.
        examples: the labelled ones.
        pool: as the model made them.
        folds: how many parts the examples are answered in.
        taught: makes the adapters of folds; None: the base model answers.

    Raises:
        DataError: too few examples to learn from.
        TransientError: generator or embedder did not answer.
    """
    if len(examples) < LEAST:
        raise DataError(too_few(len(examples)))
    probe = await asyncio.to_thread(views.probe, examples, folds)
    found = learned(await lesson_of(views, examples, folds, taught, probe, pool))
    whole = None if probe is None else probe.whole

    def judged() -> list[PseudoLabel]:
        listened = heard(pool, examples, views.labelling, views.embedder, whole)
        names, rows = evidence(listened, views.labelling, views.near(listened, examples, whole))
        return found.said_of(listened, names, rows)

    return await asyncio.to_thread(judged), found
