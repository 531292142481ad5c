"""Adaptive selection: which pseudo-labels may be trained on, and why the others may not.

Owns the rule and its reasons; pure. Invariant: every pseudo-label is either kept or has a reason, and one without
an answer or without a finite entropy is never kept, whatever the settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from semievol.config import SelectionConfig

UNPARSEABLE = "unparseable"
LOW_AGREEMENT = "low agreement"
HIGH_ENTROPY = "entropy above threshold"


class Scored(NamedTuple):
    """What selection looks at. `answer` None: no candidate answer parsed. `entropy` in nats per token."""

    id: str
    answer: str | None
    entropy: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Selection:
    """The outcome of one selection: kept ids in the order given, and the reason of every other id.

    `threshold`: the highest entropy (nats per token) that was accepted; 0 when nothing could be selected.
    """

    kept: tuple[str, ...]
    rejected: Mapping[str, str]
    threshold: float


def entropy_threshold(entropies: Sequence[float], theta: float) -> float:
    """The theta-quantile of the pool: its smallest entropy with at least the share theta at or below it.

    It is an entropy of the pool, not an interpolation (numpy's `inverted_cdf`), so that comparing with `<=` is exact
    and keeps ceil(theta * n) pseudo-labels. Equal entropies stand or fall together: ties at the
    threshold are all kept, which never depends on the order of the pool.
    """
    return float(np.quantile(np.asarray(entropies, dtype=np.float64), theta, method="inverted_cdf"))


def select(labels: Sequence[Scored], config: SelectionConfig) -> Selection:
    """Keep what parsed, agreed enough and lies at or below the theta-quantile of entropy.

    The quantile is taken over all parseable pseudo-labels, those of low agreement included.

    Raises:
        ValueError: two entries share an id.
    """
    if len({label.id for label in labels}) != len(labels):
        raise ValueError("select: ids must be unique")
    pool = [label.entropy for label in labels if label.answer is not None and math.isfinite(label.entropy)]
    threshold = entropy_threshold(pool, config.theta) if pool else 0.0
    kept: list[str] = []
    rejected: dict[str, str] = {}
    for label in labels:
        reason = _reason(label, threshold, config)
        if reason is None:
            kept.append(label.id)
        else:
            rejected[label.id] = reason
    return Selection(tuple(kept), rejected, threshold)


def _reason(label: Scored, threshold: float, config: SelectionConfig) -> str | None:
    if label.answer is None:
        return UNPARSEABLE
    if label.agreement < config.min_agreement:
        return LOW_AGREEMENT
    # Not `label.entropy > threshold`: a NaN must fall on the rejected side.
    if not (math.isfinite(label.entropy) and label.entropy <= threshold):
        return HIGH_ENTROPY
    return None
