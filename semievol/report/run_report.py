"""From a stored run to the data of its report: who answered what, what was selected, and what truth says to it.

Owns the meaning of a run's files for the report; pure functions, no file is read here (stored_run). Invariant: a figure
that the run did not give is absent, never a default; a truth that is not known is never counted as wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from semievol.config.method import SelectionConfig
from semievol.labelling.selection import scored
from semievol.report.data import (
    Answered,
    Candidate,
    CategoryScore,
    Confusion,
    Evaluated,
    Explanation,
    PoolPoint,
    ProgressPoint,
    ReportData,
    RoundReport,
    Score,
    ShownNeighbour,
)
from semievol.report.measures import Judge, judge, score, theta_points, vote_points
from semievol.report.stored_run import StoredRound, StoredRun
from semievol.types import Outcome, PseudoLabel

EXPLAINED = 6
CONFUSED = 12
STATES = {"promote": "promoted", "reject": "rejected", "inconclusive": "inconclusive"}


def report_of(
    run: StoredRun, truth: Mapping[str, str], test_size: int | None = None, right: Judge | None = None
) -> ReportData:
    """Everything that the report of a run on files shows.

    Args:
        run: what its directory holds.
        truth: canonical true answers by query id, as far as they are known.
        test_size: the number of test examples, for runs that kept their test accuracies alone.
        right: says which answers are right; None: those that are spelled as the truth.
    """
    right = right or judge(truth)
    evaluated = (*_tested(run, test_size), *_held(run))
    first, last = _compared(run)
    answers = run.tests if run.tests else _holdout_answers(run)
    compared = first in answers and last in answers and first != last
    where = "Test set" if run.tests else "Holdout"
    names = adapter_names(run)
    rule = run.selection
    pools = [each for each in run.rounds if each.labels]
    heard = any(label.consensus is not None for each in pools for label in each.labels)
    return ReportData(
        title=f"SemiEvol run {run.path.resolve().name}",
        facts=_facts(run),
        rounds=_rounds(run, right, evaluated),
        pool=tuple(point for each in pools for point in _pool(each, right, truth, rule)),
        categories=_categories(answers[first], answers[last]) if compared else (),
        confusions=_confusions(answers[first], answers[last]) if compared else (),
        progress=_progress(run),
        explanations=_explanations(pools[-1], truth, _shown(run)) if pools else (),
        notes=(*_notes(run, truth, test_size), *_certificates(run), *run.problems),
        evaluated=evaluated,
        theta=tuple(
            p for each in pools if rule for p in theta_points(each.number, each.labels, _rule(rule, each), right)
        ),
        votes=tuple(
            p
            for each in pools
            if rule and not heard  # a consensus is not that of fewer candidates
            for p in vote_points(each.number, each.labels, _rule(rule, each), right)
        ),
        sweep=run.sweep,
        comparison=f"{where}; before: {names.get(first, first)}; after: {names.get(last, last)}.",
        served=False,
        ranked_by=rule.by if rule else "entropy",
        consensus=heard,
    )


def adapter_names(run: StoredRun) -> dict[str | None, str]:
    """What figures call each adapter; None is the base model."""
    names: dict[str | None, str] = {None: "base"}
    for each in run.rounds:
        if each.result is not None:
            name = "warm" if each.kind == "warm" else f"round {each.number}"
            names.setdefault(each.result.adapter, name if each.result.promoted else f"{name} (not promoted)")
    return names


# --- evaluations ----------------------------------------------------------------------------------------------------


def _tested(run: StoredRun, test_size: int | None) -> list[Evaluated]:
    """Every adapter on the test set; by its score alone where the answers were not kept."""
    names, recorded = adapter_names(run), run.summary.get("test")
    found = []
    for adapter, name in names.items():
        if adapter in run.tests:
            found.append(_evaluated(name, adapter, run.tests[adapter], test=True))
        elif test_size and isinstance(recorded, Mapping):
            part = recorded.get(adapter or "base")
            accuracy = part.get("accuracy") if isinstance(part, Mapping) else None
            if isinstance(accuracy, (int, float)) and 0 <= accuracy <= 1:
                found.append(Evaluated(name, adapter, "test", Score(round(accuracy * test_size), test_size)))
    return found


def _held(run: StoredRun) -> list[Evaluated]:
    names = adapter_names(run)
    return [
        _evaluated(names[adapter], adapter, outcomes, test=False)
        for adapter, outcomes in _holdout_answers(run).items()
        if adapter in names
    ]


def _holdout_answers(run: StoredRun) -> dict[str | None, tuple[Outcome, ...]]:
    """What each adapter answered to the holdout, in the order of the rounds."""
    found: dict[str | None, tuple[Outcome, ...]] = {}
    for each in run.rounds:
        if each.result is not None:
            found.setdefault(each.result.incumbent, each.incumbent)
            found.setdefault(each.result.adapter, each.candidate)
    return {adapter: outcomes for adapter, outcomes in found.items() if outcomes}


def _evaluated(name: str, adapter: str | None, outcomes: Sequence[Outcome], *, test: bool) -> Evaluated:
    answers = tuple(Answered(_nats(o.entropy), o.correct, o.category) for o in outcomes)
    return Evaluated(name, adapter, "test" if test else "holdout", _score(outcomes), answers)


def _score(outcomes: Iterable[Outcome]) -> Score:
    verdicts = [outcome.correct for outcome in outcomes]
    return Score(sum(verdicts), len(verdicts))


def _compared(run: StoredRun) -> tuple[str | None, str | None]:
    """Before and after: the warm adapter (else the base model), and what answers after the last finished round."""
    finished = [each.result for each in run.rounds if each.result is not None]
    if not finished:
        return None, None
    last = finished[-1].serving
    warm = next((result.adapter for result in finished if result.kind == "warm" and result.promoted), None)
    return (warm if warm != last else None), last


# --- rounds ---------------------------------------------------------------------------------------------------------


def _rounds(run: StoredRun, right: Judge, evaluated: Sequence[Evaluated]) -> tuple[RoundReport, ...]:
    tests = {e.adapter: e.score for e in evaluated if e.examples == "test"}
    spans = _spans(run)
    return tuple(_round(each, right, tests, spans.get(each.number)) for each in run.rounds)


def _round(
    each: StoredRound, right: Judge, tests: Mapping[str | None, Score], span: tuple[float, float] | None
) -> RoundReport:
    verdicts = score([right(x, x.answer) for x in each.labels if each.reasons.get(x.query.id, "") is None])
    known = score([right(x, x.answer) for x in each.labels])
    chosen = sum(reason is None for reason in each.reasons.values())
    result = each.result
    if result is None:
        return RoundReport(
            number=each.number,
            kind=each.kind,
            state="unfinished",
            reason=f"Not finished: {each.standing}; the same `semievol evolve` goes on with it.",
            holdout_before=_score(each.incumbent) if each.incumbent else None,
            holdout_after=_score(each.candidate) if each.candidate else None,
            pool=len(each.labels),
            selected=chosen,
            selected_correct=verdicts.correct if verdicts else None,
            selected_known=verdicts.total if verdicts else None,
        )
    gate = result.gate

    def held(outcomes: Sequence[Outcome], accuracy: float) -> Score | None:
        if outcomes:
            return _score(outcomes)
        return Score(round(accuracy * gate.count), gate.count) if gate.count else None

    return RoundReport(
        number=each.number,
        kind=result.kind,
        state=STATES[gate.decision],
        adapter=result.adapter,
        reason=gate.reason,
        decision=gate.decision,
        p_better=gate.p_better if gate.count else None,
        wins=gate.wins if gate.count else None,
        losses_to_incumbent=gate.losses if gate.count else None,
        holdout_before=held(each.incumbent, gate.incumbent_accuracy),
        holdout_after=held(each.candidate, gate.candidate_accuracy),
        test_before=tests.get(result.incumbent),
        test_after=None if result.adapter is None else tests.get(result.adapter),
        pool=len(each.labels) or result.labelled,
        selected=result.selected,
        selected_correct=verdicts.correct if verdicts else 0 if known else None,
        selected_known=verdicts.total if verdicts else 0 if known else None,
        threshold=result.threshold,
        training_s=result.seconds.get("train"),
        losses=each.losses,
        started_s=span[0] if span else None,
        ended_s=span[1] if span else None,
    )


def _certificates(run: StoredRun) -> list[str]:
    """What each round knew of the error of what it selected, where a risk was stated."""
    found = [(each.number, each.result.certificate) for each in run.rounds if each.result is not None]
    return [
        f"Round {number}: {one.reason}. {one.coverage:.1%} of the pool (of all queries like it at least "
        f"{one.coverage_at_least:.1%}); calibration examples {one.calibration_sha256[:12]}."
        if one.certified
        else f"Round {number}: {one.reason}."
        for number, one in found
        if one is not None
    ]


def _rule(rule: SelectionConfig, each: StoredRound) -> SelectionConfig:
    return rule.of_evolve_round(each.number - 1)


def _spans(run: StoredRun) -> dict[int, tuple[float, float]]:
    """Begin and end of each finished round in seconds of work: steps one after the other, pauses left out."""
    finished = [each.result for each in run.rounds if each.result is not None]
    ends = list(accumulate(sum(result.seconds.values()) for result in finished))
    return {
        result.number: (start, end)
        for result, start, end in zip(finished, [0.0, *ends], ends, strict=False)
        if end > start
    }


def _progress(run: StoredRun) -> tuple[ProgressPoint, ...]:
    spans, labelled, points = _spans(run), 0, []
    for each in run.rounds:
        if each.result is not None and each.result.labelled and each.number in spans:
            labelled += each.result.labelled
            points.append(ProgressPoint(spans[each.number][0] + each.result.seconds.get("label", 0.0), labelled))
    return tuple(points)


# --- pseudo-labels --------------------------------------------------------------------------------------------------


def _pool(each: StoredRound, right: Judge, truth: Mapping[str, str], rule: SelectionConfig | None) -> list[PoolPoint]:
    return [
        PoolPoint(
            round=each.number,
            entropy=_nats(label.entropy),
            confidence=label.confidence if math.isfinite(label.confidence) else 0.0,
            selected=each.reasons.get(label.query.id, "") is None,
            correct=right(label, label.answer),
            id=label.query.id,
            answer=label.answer,
            truth=truth.get(label.query.id),
            agreement=label.agreement,
            reason=each.reasons.get(label.query.id),
            uncertainty=_uncertainty(label, rule),
        )
        for label in each.labels
    ]


def _uncertainty(label: PseudoLabel, rule: SelectionConfig | None) -> float | None:
    """Infinite without an answer, which selection never takes, whatever was measured."""
    if rule is None:
        return None
    return math.inf if label.answer is None else scored(label, rule).uncertainty


def _shown(run: StoredRun) -> dict[str, tuple[str, str]]:
    return {id_: text for each in run.rounds for id_, text in each.shown.items()}


def _explanations(
    each: StoredRound, truth: Mapping[str, str], shown: Mapping[str, tuple[str, str]]
) -> tuple[Explanation, ...]:
    """A few queries: the surest and the least sure of the round."""
    pool = sorted(each.labels, key=lambda label: (_nats(label.entropy), label.query.id))
    some = pool[: EXPLAINED // 2] + pool[-EXPLAINED // 2 :] if len(pool) > EXPLAINED else pool
    return tuple(_explanation(label, each.reasons.get(label.query.id, "not known"), truth, shown) for label in some)


def _explanation(
    label: PseudoLabel, reason: str | None, truth: Mapping[str, str], shown: Mapping[str, tuple[str, str]]
) -> Explanation:
    unknown = ("(not among the examples trained on)", "")
    return Explanation(
        id=label.query.id,
        question=label.query.question,
        answer=label.answer,
        entropy=_nats(label.entropy),
        agreement=label.agreement,
        selected=reason is None,
        adapter=label.adapter,
        truth=truth.get(label.query.id),
        reason=reason,
        justified=label.justified,
        neighbours=tuple(ShownNeighbour(id_, *shown.get(id_, unknown), near) for id_, near in label.neighbours),
        candidates=tuple(Candidate(c.configuration, c.text, c.answer, _nats(c.entropy)) for c in label.candidates),
    )


# --- before and after -----------------------------------------------------------------------------------------------


def _categories(before: Sequence[Outcome], after: Sequence[Outcome]) -> tuple[CategoryScore, ...]:
    def by_category(outcomes: Sequence[Outcome]) -> dict[str, Score]:
        named = {o.category for o in outcomes if o.category is not None}
        return {name: _score(o for o in outcomes if o.category == name) for name in named}

    first, last = by_category(before), by_category(after)
    return tuple(CategoryScore(name, first.get(name, Score(0, 0)), last[name]) for name in sorted(last))


def _confusions(before: Sequence[Outcome], after: Sequence[Outcome]) -> tuple[Confusion, ...]:
    first, last = (Counter((o.expected, o.answer) for o in part if not o.correct) for part in (before, after))
    return tuple(Confusion(pair[0], pair[1], first[pair], count) for pair, count in last.most_common(CONFUSED))


# --- words ----------------------------------------------------------------------------------------------------------


def _facts(run: StoredRun) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {}
    model, seed = _setting(run, "model", "name"), _setting(run, "seed")
    if isinstance(model, str):
        facts["model"] = model
    if run.task is not None:
        facts["task"] = run.task.form
    if run.selection is not None:
        risk = run.selection.risk
        if risk is None:
            thetas = run.selection.theta_by_round or (run.selection.theta,)
            facts["theta"] = ", ".join(theta if theta == "auto" else f"{theta:g}" for theta in thetas)
        else:
            facts["stated risk"] = f"{risk.budget:g} " + ("on average" if risk.on_average else f"({risk.confidence:g})")
        facts["least agreement"] = run.selection.min_agreement
    if isinstance(seed, int):
        facts["seed"] = seed
    facts["configuration"] = hashlib.sha256(json.dumps(run.settings, sort_keys=True).encode()).hexdigest()[:12]
    for key in ("examples", "holdout", "queries"):
        if isinstance(run.summary.get(key), int):
            facts[key] = run.summary[key]
    spent = sum(sum(each.result.seconds.values()) for each in run.rounds if each.result is not None)
    if spent:
        facts["seconds of work"] = round(spent)
    return facts


def _setting(run: StoredRun, *keys: str) -> Any:
    """One of the run's settings; None where it is not there."""
    value: Any = run.settings
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _notes(run: StoredRun, truth: Mapping[str, str], test_size: int | None) -> list[str]:
    notes = []
    pool = {label.query.id for each in run.rounds for label in each.labels}
    if pool and not truth:
        notes.append(
            "The truth about the queries is not known to this report; `semievol report --answers FILE` gives it."
        )
    elif pool - truth.keys():
        notes.append(
            f"The truth is known of {len(pool & truth.keys())} of {len(pool)} queries; the others count nowhere."
        )
    if not run.tests:
        kept = " (with --test FILE, by the accuracies in summary.json alone)" if run.summary.get("test") else ""
        again = (
            "`semievol evolve` with --test, run again in this directory, keeps them; finished rounds are not repeated"
        )
        notes.append(f"No answers to a test set were kept{'' if test_size else kept}: {again}.")
    if any(each.result is None for each in run.rounds):
        notes.append("The run is not finished; this is what there is.")
    return notes


def _nats(entropy: float) -> float:
    return entropy if math.isfinite(entropy) else math.inf
