"""Adaptive selection: which pseudo-labels may be trained on, and why the others may not.

Owns the rule, what it ranks by, and its reasons; pure. Invariant: every pseudo-label is either kept or has a reason,
and one without an answer or without a finite entropy is never kept, whatever the settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from semievol.config.method import SelectionConfig
from semievol.errors import DataError
from semievol.labelling import confidence
from semievol.labelling.certificate import Certificate, Judged, certify
from semievol.tasks.equality import AnswerEquality, is_correct
from semievol.types import Example, PseudoLabel

UNPARSEABLE = "unparseable"
LOW_AGREEMENT = "low agreement"
NO_OWN_CANDIDATE = "low agreement: only the consensus gave this answer"
HIGH_ENTROPY = "entropy above threshold"
HIGH_UNCERTAINTY = "uncertainty above threshold"
NOT_CERTIFIED = "nothing is certified at the stated risk"
EVEN = 0.5


class Scored(NamedTuple):
    """What selection looks at. `answer` None: no candidate answer parsed. `entropy` in nats per token.

    `uncertainty` is what `selection.by` ranks by, lower being surer; None: the entropy.
    """

    id: str
    answer: str | None
    entropy: float
    agreement: float
    uncertainty: float | None = None


def scored(label: PseudoLabel, config: SelectionConfig) -> Scored:
    """What selection looks at of a pseudo-label, with the measure that the configuration ranks by."""
    return Scored(label.query.id, label.answer, label.entropy, label.agreement, _uncertainty(label, config))


def _uncertainty(label: PseudoLabel, config: SelectionConfig) -> float | None:
    """Shares are taken from 1, so that lower is surer for all of them; semantic entropy is in nats."""
    answers = [candidate.answer for candidate in label.candidates]
    entropies = [candidate.entropy for candidate in label.candidates]
    match config.by:
        case "entropy":
            return None
        case "agreement":
            return 1.0 - label.agreement
        case "margin":
            return 1.0 - confidence.margin(answers, label.answer)
        case "votes":
            return 1.0 - confidence.weighted_votes(answers, entropies, label.answer)
        case "consensus":
            return None if label.consensus is None else 1.0 - label.consensus
        case "learned":
            return None if label.right is None else 1.0 - label.right
        case "semantic_entropy":
            return confidence.semantic_entropy(answers, entropies)


@dataclass(frozen=True, slots=True)
class Selection:
    """The outcome of one selection: kept ids in the order given, and the reason of every other id.

    `threshold`: the highest entropy (nats per token), or uncertainty, that was accepted; 0 when nothing could be
    selected. `certificate`: what is known of its error, where a risk was stated. `theta`: the quantile that decided;
    None: another rule did.
    """

    kept: tuple[str, ...]
    rejected: Mapping[str, str]
    threshold: float
    certificate: Certificate | None = None
    theta: float | None = None


def entropy_threshold(entropies: Sequence[float], theta: float) -> float:
    """The theta-quantile of the pool: its smallest entropy with at least the share theta at or below it.

    It is an entropy of the pool, not an interpolation (numpy's `inverted_cdf`), so that comparing with `<=` is exact
    and keeps ceil(theta * n) pseudo-labels. Equal entropies stand or fall together: ties at the
    threshold are all kept, which never depends on the order of the pool.
    """
    return float(np.quantile(np.asarray(entropies, dtype=np.float64), theta, method="inverted_cdf"))


def select(labels: Sequence[Scored], config: SelectionConfig) -> Selection:
    """Keep what parsed, agreed enough and lies at or below the theta-quantile of entropy, or of `config.by`.

    The quantile is taken over all parseable pseudo-labels, those of low agreement included. `theta: auto` is of the
    round (`SelectionConfig.of_evolve_round`), or, by what is learned, all that is likelier right than wrong.

    Raises:
        ValueError: two entries share an id; or theta is auto, by a measure that says nothing of a pool.
        DataError: one lacks the measure that the configuration ranks by.
    """
    _check_ids(labels)
    ranks = [_rank(label, config) for label in labels]
    pool = [rank for label, rank in zip(labels, ranks, strict=True) if label.answer is not None and math.isfinite(rank)]
    if config.theta == "auto":
        if config.by != "learned":
            raise ValueError("select: theta auto is of a round; ask of_evolve_round")
        # The ranks are the learned chances that each is wrong.
        likelier_right = [rank for rank in pool if rank <= EVEN]
        found = _kept_below(max(likelier_right, default=0.0), labels, ranks, config)
        return replace(found, theta=len(likelier_right) / max(1, len(pool)))
    found = _kept_below(entropy_threshold(pool, config.theta) if pool else 0.0, labels, ranks, config)
    return replace(found, theta=config.theta)


def select_at_risk(labels: Sequence[Scored], judged: Sequence[Judged], config: SelectionConfig) -> Selection:
    """Keep what parsed, agreed enough and lies at or below the threshold that calibration certifies for `config.risk`.

    Args:
        labels: the pool.
        judged: the calibration examples (`judge_calibration`), ranked as the pool is.
        config: `risk` is set.

    Raises:
        ValueError: two entries share an id, or no risk is stated.
        DataError: one lacks the measure that the configuration ranks by.
    """
    if config.risk is None:
        raise ValueError("select_at_risk: the settings state no risk")
    _check_ids(labels)
    found = certify([_selectable_rank(label, config) for label in labels], judged, config.risk)
    if found.threshold is None:
        rejected = {label.id: _reason(label, 0.0, 0.0, config) or NOT_CERTIFIED for label in labels}
        return Selection((), rejected, 0.0, found)
    ranks = [_rank(label, config) for label in labels]
    return replace(_kept_below(found.threshold, labels, ranks, config), certificate=found)


def judge_calibration(
    labels: Sequence[PseudoLabel], truth: Mapping[str, Example], equality: AnswerEquality, config: SelectionConfig
) -> list[Judged]:
    """How unsure the pseudo-labels of calibration examples are, and which are wrong.

    Those of unknown truth are left out. Blocking, where answers are compared by an embedder.
    """
    known = [label for label in labels if label.query.id in truth]
    golds = [gold for label in known for gold in truth[label.query.id].answers]
    same = equality.among([*(label.answer for label in known), *golds])
    return [
        Judged(
            label.query.id,
            _selectable_rank(scored(label, config), config),
            not is_correct(label.answer, truth[label.query.id], same),
        )
        for label in known
    ]


def _check_ids(labels: Sequence[Scored]) -> None:
    if len({label.id for label in labels}) != len(labels):
        raise ValueError("select: ids must be unique")


def _kept_below(
    threshold: float, labels: Sequence[Scored], ranks: Sequence[float], config: SelectionConfig
) -> Selection:
    kept: list[str] = []
    rejected: dict[str, str] = {}
    for label, rank in zip(labels, ranks, strict=True):
        reason = _reason(label, rank, threshold, config)
        if reason is None:
            kept.append(label.id)
        else:
            rejected[label.id] = reason
    return Selection(tuple(kept), rejected, threshold)


def _selectable_rank(label: Scored, config: SelectionConfig) -> float:
    """The rank of what some threshold could take; inf of what none would."""
    rank = _rank(label, config)
    return math.inf if _reason(label, rank, rank, config) else rank


def _rank(label: Scored, config: SelectionConfig) -> float:
    """What is compared with the threshold; without a finite entropy, whatever else was measured, inf."""
    if not math.isfinite(label.entropy):
        return math.inf
    if config.by == "entropy":
        return label.entropy
    if label.uncertainty is None:
        raise DataError(
            f"{label.id!r} has no {config.by} to rank by; label the queries again with these settings, or "
            "set selection.by"
        )
    return label.uncertainty


def _reason(label: Scored, rank: float, threshold: float, config: SelectionConfig) -> str | None:
    if label.answer is None:
        return UNPARSEABLE
    if label.agreement < config.min_agreement:
        return LOW_AGREEMENT if label.agreement > 0 else NO_OWN_CANDIDATE
    # Not `rank > threshold`: a NaN must fall on the rejected side.
    if not (math.isfinite(rank) and rank <= threshold):
        return HIGH_ENTROPY if config.by == "entropy" else HIGH_UNCERTAINTY
    return None
