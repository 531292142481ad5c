"""Which threshold keeps the share of wrong pseudo-labels within a budget, and what that is known from.

Two promises, both from labelled calibration examples that were answered as the pool was, and never retrieved nor
trained on; neither assumes anything of the model:

- at most `budget` wrong, with `confidence`: learn-then-test with a fixed sequence (Angelopoulos et al., arXiv
  2110.01052; Jung et al., Trust or Escalate, 2407.18370). Thresholds are shares of the pool, strict ones first, so
  that no calibration answer has a say in what is tested; it goes on while
  P(Binomial(n, budget) <= errors) <= 1 - confidence.
- at most `budget` wrong on average: conformal selection with Benjamini-Hochberg (Jin and Candes, 2210.01408; for
  labels 2405.10301, 2510.14581). It keeps more and says nothing about the single round.

Owns the mathematics and the certificate; pure. Who is calibrated on is `examples.split`'s, what is ranked selection's.
Invariant: with too little evidence nothing is certified, and what is missing is named.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semievol.binomial import binomial_mass
from semievol.config.labelling import RiskConfig

STEPS = 100
"""Thresholds that are tested: so many equal shares of the pool."""
FIRST_SHARE = 0.25
"""Of the pool: the first threshold that is tested, unless a larger one is needed for enough labels below it. Stricter
ones would have too few labels to forgive a single error; a first failure ends the sequence."""
FORGIVEN = 1
"""Errors that the first threshold should survive."""
POWER = 0.85
"""With the number of labels that is named, something is certified in so large a share of draws."""
MOST_LABELS = 50_000
"""Where even so many would not do, for all that is known, no number is named."""

Floats = NDArray[np.float64]


class Judged(NamedTuple):
    """A calibration example: how unsure its pseudo-label is, as the pool is ranked, and whether it is wrong.

    `rank` is inf where selection would not take it at any threshold.
    """

    id: str
    rank: float
    wrong: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """The bound on the error of what was selected, with its evidence.

    rule: see this module. confidence: of the bound; None on average.
    labels: calibration examples; certain: those of them at or below the threshold; errors: wrong ones among these.
        Where nothing is certified, they are of the threshold that was tried.
    threshold: the highest rank that is certified; None: none is.
    coverage: the share of the pool at or below it; coverage_at_least: of all queries like it, with 95 %
        (Dvoretzky-Kiefer-Wolfowitz, over all thresholds at once).
    needed: calibration labels with which something would be certified; None: no number that can be named.
    missing: of those, how many are not there yet.
    calibration_sha256: of the calibration examples' ids, sorted, one a line.
    reason: the same in words.
    """

    rule: Literal["learn_then_test", "conformal"]
    budget: float
    confidence: float | None
    labels: int
    certain: int
    errors: int
    threshold: float | None
    coverage: float
    coverage_at_least: float
    needed: int | None
    missing: int | None
    calibration_sha256: str
    reason: str

    @property
    def certified(self) -> bool:
        """Whether anything may be selected."""
        return self.threshold is not None


def certify(pool: Sequence[float], judged: Sequence[Judged], config: RiskConfig) -> Certificate:
    """The loosest threshold that the calibration examples certify.

    Args:
        pool: the rank of every pseudo-label that could be selected, lower being surer; inf for those that no threshold
            takes.
        judged: the calibration examples, one a question.
        config: budget, confidence, and which of the two promises.
    """
    evidence = _Evidence.of(pool, judged)
    place = _on_average(evidence, config) if config.on_average else _fixed_sequence(evidence, config)
    found = Certificate(
        rule="conformal" if config.on_average else "learn_then_test",
        budget=config.budget,
        confidence=None if config.on_average else config.confidence,
        labels=len(judged),
        certain=0,
        errors=0,
        threshold=None,
        coverage=0.0,
        coverage_at_least=0.0,
        needed=0,
        missing=0,
        calibration_sha256=ids_hash(each.id for each in judged),
        reason="",
    )
    if place is not None:
        return _certified(found, evidence, place)
    return _refused(found, evidence, config)


def ids_hash(ids: Iterable[str]) -> str:
    """SHA-256 over the ids, sorted, one a line."""
    lines = "".join(f"{each}\n" for each in sorted(ids))
    return hashlib.sha256(lines.encode(errors="surrogatepass")).hexdigest()


# --- how many errors --------------------------------------------------------------------------------------


@lru_cache(maxsize=65_536)
def most_errors(trials: int, budget: float, confidence: float) -> int:
    """So many errors in `trials` still show, with `confidence`, that at most `budget` are wrong; -1: not even none."""
    errors, below = -1, 0.0
    while errors < trials:
        below += binomial_mass(errors + 1, trials, budget)
        if below > 1.0 - confidence:
            break
        errors += 1
    return errors


@lru_cache(maxsize=256)
def least_labels(errors: int, budget: float, confidence: float) -> int:
    """So many labels among the selected are needed if `errors` of them are wrong: 59 for none, 5 % and 95 %."""
    low, high = errors, errors + 1
    while most_errors(high, budget, confidence) < errors:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if most_errors(middle, budget, confidence) >= errors else (middle, high)
    return high


# --- the two rules --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Evidence:
    """thresholds, ascending; for each the share of the pool at or below it, calibration labels and errors there."""

    thresholds: Floats
    shares: Floats
    labels: NDArray[np.int64]
    errors: NDArray[np.int64]
    pool: int
    calibration: int

    @classmethod
    def of(cls, pool: Sequence[float], judged: Sequence[Judged]) -> _Evidence:
        ranks = np.sort(np.asarray(pool, dtype=np.float64))
        able = ranks[np.isfinite(ranks)]
        thresholds = np.unique(able)
        known = np.sort(np.asarray([each.rank for each in judged], dtype=np.float64))
        wrong = np.sort(np.asarray([each.rank for each in judged if each.wrong], dtype=np.float64))
        return cls(
            thresholds,
            np.searchsorted(able, thresholds, side="right") / max(1, len(ranks)),
            np.searchsorted(known, thresholds, side="right"),
            np.searchsorted(wrong, thresholds, side="right"),
            len(ranks),
            len(judged),
        )

    def at_share(self, share: float) -> int:
        """The place of the strictest threshold with at least `share` of the pool below it; else of the loosest one."""
        return min(int(np.searchsorted(self.shares, share - 1e-12)), len(self.shares) - 1)

    def likelihood_of_at_most(self, errors: int, trials: int, place: int) -> float:
        """How likely so many certain labels have at most so many errors, over all error rates that the labels allow.

        The rate is drawn from its Beta posterior (Jeffreys' prior); stricter thresholds are held to be no worse than
        looser ones, which have more labels: the best of them speaks.
        """
        rates: Floats = (np.arange(128, dtype=np.float64) + 0.5) / 256.0
        best = 0.0
        for looser in dict.fromkeys([place, *(self.at_share(self.shares[place] * scale) for scale in (1.5, 2.0, 3.0))]):
            wrong, right = self.errors[looser] + 0.5, self.labels[looser] - self.errors[looser] + 0.5
            weights = (wrong - 1.0) * np.log(rates) + (right - 1.0) * np.log1p(-rates)
            weights = np.exp(weights - weights.max())
            below = _binomial_cdfs(errors, trials, rates)
            best = max(best, float(weights @ below / weights.sum()))
        return best


def _binomial_cdfs(successes: int, trials: int, rates: Floats) -> Floats:
    """`binomial_cdf` for several probabilities at once; shape of `rates`."""
    steps = np.arange(successes)
    ways = np.concatenate([[0.0], np.cumsum(np.log((trials - steps) / (steps + 1.0)))])
    counts = np.arange(successes + 1)
    masses = ways + counts * np.log(rates)[:, None] + (trials - counts) * np.log1p(-rates)[:, None]
    found: Floats = np.minimum(1.0, np.exp(masses).sum(axis=1))
    return found


def _first_share(labels: int, config: RiskConfig) -> float:
    """The share of the pool below the first threshold that so many calibration labels can be tested at."""
    return min(1.0, max(FIRST_SHARE, least_labels(FORGIVEN, config.budget, config.confidence) / max(1, labels)))


def _fixed_sequence(seen: _Evidence, config: RiskConfig) -> int | None:
    """The place of the loosest threshold before the first that fails."""
    if not len(seen.thresholds):
        return None
    first = _first_share(seen.calibration, config)
    shares = [first, *(step / STEPS for step in range(1, STEPS + 1) if step / STEPS > first)]
    passed: int | None = None
    for place in dict.fromkeys(seen.at_share(share) for share in shares):
        if seen.errors[place] > most_errors(int(seen.labels[place]), config.budget, config.confidence):
            break
        passed = place
    return passed


def _on_average(seen: _Evidence, config: RiskConfig) -> int | None:
    """The loosest threshold whose conformal p-value is within Benjamini-Hochberg's line."""
    p_values = (1.0 + seen.errors) / (seen.calibration + 1.0)
    within = np.flatnonzero(p_values <= config.budget * seen.shares)
    return int(within[-1]) if len(within) else None


# --- what is said of it ---------------------------------------------------------------------------------------------


def _certified(found: Certificate, seen: _Evidence, place: int) -> Certificate:
    share = float(seen.shares[place])
    slack = math.sqrt(math.log(1 / 0.05) / (2 * seen.pool))
    certain, errors = int(seen.labels[place]), int(seen.errors[place])
    promise = "on average" if found.confidence is None else f"with confidence {found.confidence:.4g}"
    return replace(
        found,
        certain=certain,
        errors=errors,
        threshold=float(seen.thresholds[place]),
        coverage=share,
        coverage_at_least=max(0.0, share - slack),
        reason=f"at most {found.budget:.3g} of the selected are wrong, {promise}: {errors} of {certain} certain "
        "calibration labels are",
    )


def _refused(found: Certificate, seen: _Evidence, config: RiskConfig) -> Certificate:
    what = f"nothing is certified to be at most {config.budget:.3g} wrong"
    what += " on average" if config.on_average else f" with confidence {config.confidence:.4g}"
    if not len(seen.thresholds):
        return replace(
            found, needed=None, missing=None, reason=f"{what}: no pseudo-label of the pool could be selected"
        )
    place = seen.at_share(1.0 if config.on_average else _first_share(seen.calibration, config))
    certain, errors = int(seen.labels[place]), int(seen.errors[place])
    found = replace(found, certain=certain, errors=errors)
    needed = _needed(seen, config)
    least = least_labels(0, config.budget, config.confidence)
    there = f"{certain} certain calibration labels there, {errors} of them wrong"
    if needed is None:
        advice = "how many would do cannot be told from these: add labels, label better, or raise selection.risk.budget"
        if not config.on_average and certain < least:
            advice = f"{least} certain ones needed at the least: {least - certain} more; {advice}"
        return replace(found, needed=None, missing=None, reason=f"{what}: {there}; {advice}")
    missing = needed - seen.calibration
    reason = f"{what}: {needed} calibration labels needed, {seen.calibration} there: {missing} more"
    reason += f" ({there}" + ("" if config.on_average else f"; {least} without an error would do") + ")"
    reason += f"; of labelled examples {config.calibration_share:.3g} are for calibration (selection.risk)"
    return replace(found, needed=needed, missing=missing, reason=reason)


def _needed(seen: _Evidence, config: RiskConfig) -> int | None:
    """So many calibration labels certify something in a share POWER of draws, for all that is known of the errors."""
    low, high = seen.calibration, MOST_LABELS
    if _power(seen, high, config) < POWER:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(seen, middle, config) >= POWER else (middle, high)
    return high


def _power(seen: _Evidence, labels: int, config: RiskConfig) -> float:
    """How likely so many labels certify anything."""
    if config.on_average:
        places = dict.fromkeys(seen.at_share(step / 10) for step in range(1, 11))
    else:
        places = dict.fromkeys([seen.at_share(_first_share(labels, config))])
    best = 0.0
    for place in places:
        share = float(seen.shares[place])
        certain = int(labels * share)
        if config.on_average:
            allowed = math.floor(config.budget * share * (labels + 1) - 1.0 + 1e-9)
        else:
            allowed = most_errors(certain, config.budget, config.confidence)
        if certain > 0 and allowed >= 0:
            best = max(best, seen.likelihood_of_at_most(min(allowed, certain), certain, place))
    return best
