"""Confidence that is learned: the probability that a pseudo-label is right, from all that is known of it.

Learned where the truth is known and none of the views had seen it: from examples that were answered out of fold
(labelling.out_of_fold), or from such as are put aside. Owns the model and what it says of itself. Pure. Invariants: no
evidence for an answer ever lowers its probability; the same answers in the same order give the same model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semievol.config.method import MethodConfig
from semievol.errors import DataError
from semievol.labelling.logistic import Floats, Sureness, sureness
from semievol.types import PseudoLabel

PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
LEAST = 20
"""With fewer answers of known truth nothing is learned that would be better than a guess."""
BINS = 10


@dataclass(frozen=True, slots=True)
class Lesson:
    """Answers of known truth: evidence, shape (rows, kinds), whether each is right, and its fold (cross-validation)."""

    names: tuple[str, ...]
    evidence: Floats
    right: NDArray[np.bool_]
    folds: NDArray[np.int64]

    @classmethod
    def together(cls, lessons: Sequence[Lesson]) -> Lesson:
        """Several, whose names are the same."""
        return cls(
            lessons[0].names,
            np.concatenate([each.evidence for each in lessons]),
            np.concatenate([each.right for each in lessons]),
            np.concatenate([each.folds for each in lessons]),
        )


@dataclass(frozen=True, slots=True)
class Learned:
    """A model of what makes a pseudo-label right, and how well it did on answers that it had not learned from.

    names: of the evidence. labels: answers that it was learned from; right: the share of them that is.
    log_loss: nats an answer, out of fold. calibration_error: out of fold, see there.
    """

    names: tuple[str, ...]
    model: Sureness
    penalty: float
    labels: int
    right: float
    log_loss: float
    calibration_error: float

    def probabilities(self, names: Sequence[str], evidence: Floats) -> Floats:
        """That each pseudo-label is right.

        Raises:
            DataError: the evidence is of other kinds.
        """
        if tuple(names) != self.names:
            raise DataError("the learned confidence is of other views; label again with these settings")
        return self.model.probabilities(evidence)

    def said_of(self, labels: Sequence[PseudoLabel], names: Sequence[str], evidence: Floats) -> list[PseudoLabel]:
        """The pseudo-labels with `right`; one without an answer is not."""
        chances = self.probabilities(names, evidence)
        return [
            replace(label, right=0.0 if label.answer is None else float(chance))
            for label, chance in zip(labels, chances, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        model = {key: value.tolist() for key, value in asdict(self.model).items() if key != "bias"}
        return {**asdict(self), "names": list(self.names), "model": {**model, "bias": self.model.bias}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Learned:
        """Raises KeyError, TypeError or ValueError where it is none."""
        model = dict(values["model"])
        arrays = {
            key: np.array(model[key], dtype=np.float64) for key in ("lows", "highs", "means", "scales", "weights")
        }
        found = {**values, "names": tuple(values["names"]), "model": Sureness(bias=float(model["bias"]), **arrays)}
        return cls(**found)


def said_of(model: Learned, labels: Sequence[PseudoLabel], kept: Collection[str]) -> dict[str, Any]:
    """What the confidence says of pseudo-labels, as JSON: how many are right by it, of all and of the `kept` ids."""
    chances = {label.query.id: label.right for label in labels if label.right is not None}
    kept = frozenset(kept)
    selected = [chance for key, chance in chances.items() if key in kept]
    return {
        "labels": model.labels,
        "right": model.right,
        "log_loss": model.log_loss,
        "calibration_error": model.calibration_error,
        "weights": dict(zip(model.names, model.model.weights.tolist(), strict=True)),
        "estimated_accuracy": sum(chances.values()) / len(chances) if chances else None,
        "estimated_selected_accuracy": sum(selected) / len(selected) if selected else None,
    }


def learned(lesson: Lesson) -> Learned:
    """The model that tells right from wrong best out of fold.

    Raises:
        DataError: too few answers of known truth.
    """
    if len(lesson.right) < LEAST:
        raise DataError(too_few(len(lesson.right)))
    found = [_out_of_fold(lesson, penalty) for penalty in PENALTIES]
    losses = [_log_loss(chances, lesson.right) for chances in found]
    best = int(np.argmin(losses))
    return Learned(
        lesson.names,
        sureness(lesson.evidence, lesson.right, PENALTIES[best]),
        PENALTIES[best],
        len(lesson.right),
        float(lesson.right.mean()),
        losses[best],
        calibration_error(found[best], lesson.right),
    )


def check_enough(config: MethodConfig, labels: int) -> None:
    """That so many labelled questions are enough, where something is learned of them: before anything is paid for.

    Raises:
        DataError: they are too few.
    """
    if config.selection.by == "learned" and labels < LEAST:
        raise DataError(too_few(labels))


def too_few(labels: int) -> str:
    """What to say where so many answers of known truth do not do."""
    return (
        f"selection.by: learned has {labels} labelled questions to learn from, and needs {LEAST}; add labels, or set "
        "another measure"
    )


def _out_of_fold(lesson: Lesson, penalty: float) -> Floats:
    """Of each answer, by a model of the other folds."""
    chances = np.zeros(len(lesson.right))
    for fold in np.unique(lesson.folds):
        inside = lesson.folds == fold
        if inside.all():
            chances[inside] = lesson.right.mean()
            continue
        model = sureness(lesson.evidence[~inside], lesson.right[~inside], penalty)
        chances[inside] = model.probabilities(lesson.evidence[inside])
    return chances


def _log_loss(chances: Floats, right: NDArray[np.bool_]) -> float:
    kept = np.clip(chances, 1e-6, 1.0 - 1e-6)
    return float(-np.where(right, np.log(kept), np.log1p(-kept)).mean())


def calibration_error(chances: Floats, right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error, in [0, 1]: how far the mean probability lies from the share that is right, on the
    mean over so many equal parts of the answers, in the order of their probability.
    """
    order = np.argsort(chances, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(float(chances[part].mean()) - float(right[part].mean())) * len(part) for part in parts]
    return sum(gaps) / max(1, len(chances))
