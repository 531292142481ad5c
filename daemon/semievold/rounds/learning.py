"""The learned confidence of a round: from the calibration examples, which no version was ever taught.

On files it is learned out of fold, by trainings on parts of the examples; here a share of the examples is put aside
anyway, and answered as the pool is. Owns which of them teach and which certify: never the same, or the certificate
would be of labels that chose what it is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from semievol.errors import DataError
from semievol.examples.split import asked_key, in_share
from semievol.labelling import learned
from semievol.labelling.evidence import Surroundings, evidence, surroundings
from semievol.labelling.learned import Learned
from semievol.labelling.probe import Probe, fitted, folds_of
from semievol.protocols import Embedder
from semievol.tasks.equality import AnswerEquality, is_correct
from semievol.tasks.task import Task
from semievol.types import Example, PseudoLabel
from semievold.config.daemon import DaemonConfig


@dataclass(frozen=True, slots=True)
class Lesson:
    """labels: the pool with its probabilities; certifying: the calibration labels that taught nothing, with theirs.

    model None: there is none, for the reason `nothing`, and no label has a probability.
    """

    labels: list[PseudoLabel]
    certifying: list[PseudoLabel]
    model: Learned | None
    nothing: str | None = None


def learn(
    labels: list[PseudoLabel],
    calibration: Sequence[PseudoLabel],
    truth: Mapping[str, Example],
    examples: Sequence[Example],
    task: Task,
    config: DaemonConfig,
    embedder: Embedder,
) -> Lesson:
    """Learn who is right from calibration labels, and say it of the pool. Blocking: embeds.

    Args:
        labels: the pool, after it has listened to those near.
        calibration: answers to calibration examples, made and heard as the pool was.
        truth: those examples, by id; labels without one say nothing.
        examples: what may be retrieved; none of them is a calibration example.
        task: whose answers they are.
        config: with a stated risk, half of the calibration labels teach; else all.
        embedder: of questions.
    """
    known = [label for label in calibration if label.query.id in truth]
    teaching = [label for label in known if label.answer is not None and _teaches(label, config)]
    certifying = [label for label in known if not _teaches(label, config)]
    nearness = Nearness(examples, task, embedder)

    def found(some: Sequence[PseudoLabel]) -> tuple[tuple[str, ...], np.ndarray]:
        return evidence(some, config.labelling, nearness.around(some))

    names, rows = found(teaching)
    golds = [gold for label in teaching for gold in truth[label.query.id].answers]
    same = AnswerEquality(task, embedder).among([*(label.answer for label in teaching), *golds])
    right = [is_correct(label.answer, truth[label.query.id], same) for label in teaching]
    folds = folds_of([truth[label.query.id] for label in teaching])
    try:
        model = learned.learned(learned.Lesson(names, rows, np.array(right, dtype=bool), folds))
    except DataError as error:
        return Lesson(labels, certifying, None, str(error))
    return Lesson(model.said_of(labels, *found(labels)), model.said_of(certifying, *found(certifying)), model)


def _teaches(label: PseudoLabel, config: DaemonConfig) -> bool:
    return config.selection.risk is None or in_share(asked_key(label.query), 0.5, "learned")


class Nearness:
    """What the examples say of questions near them: nothing, where an answer means something else each time.

    `probe`: of the examples; None: there is none.
    """

    def __init__(self, examples: Sequence[Example], task: Task, embedder: Embedder) -> None:
        self._examples = examples
        self._embedder = embedder
        self.probe: Probe | None = None
        if examples and task.config.closed:
            self._vectors = embedder.embed([example.query.question for example in examples])
            self.probe = fitted(self._vectors, examples).whole

    def around(self, labels: Sequence[PseudoLabel]) -> Surroundings | None:
        """Of the labels, in their order."""
        if self.probe is None:
            return None
        vectors = self._embedder.embed([label.query.question for label in labels])
        return surroundings(vectors, self._examples, self._vectors, self.probe)
