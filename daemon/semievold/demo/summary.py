"""Sums the demo up: figures for the terminal and for programs, and the data of the HTML report.

Reads the daemon's state and the story; measures nothing itself. Invariant: a figure that the run did not give is
absent, never a default.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from semievol.config.method import SelectionConfig
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
    Swap,
)
from semievol.report.measures import judge, theta_points, vote_points
from semievol.training.job import read_snapshot
from semievol.types import PseudoLabel
from semievold.api.operations import explain
from semievold.demo.client import Memory
from semievold.demo.scenario import Measurement, Story
from semievold.demo.support_desk import Dataset
from semievold.demo.telling import Told
from semievold.round_states import RoundState
from semievold.rounds.places import RoundPlace
from semievold.store.rounds import Round
from semievold.store.stores import Stores

EXPLAINED = 6
CONFUSED = 12


def report_data(
    story: Story,
    stores: Stores,
    place: RoundPlace,
    selection: SelectionConfig,
    dataset: Dataset,
    memory: Memory,
    told: Told,
    facts: Mapping[str, str | int | float],
) -> ReportData:
    """Everything the report shows."""
    rounds = sorted(stores.rounds.all(), key=lambda round_: round_.number)
    # The base model answers nothing of a closed-book task; what the rounds changed shows against the warm adapter.
    measured = [m for name, m in story.measurements.items() if name != "base"]
    last, labels = _last_pool(rounds, stores)
    right = judge(dataset.answers)
    return ReportData(
        title="SemiEvol demo: a support desk that teaches itself",
        facts={
            **facts,
            "seconds": round(story.seconds),
            "peak memory, GiB": round(memory.peak / 2**30, 2),
            "customers' requests": story.customers.answered,
            "failed requests": story.customers.failed,
        },
        rounds=tuple(_round(round_, story, stores, place, dataset) for round_ in rounds),
        pool=_pool(last, labels, stores, dataset),
        categories=_categories(measured[0], measured[-1]) if len(measured) > 1 else (),
        confusions=_confusions(measured[0], measured[-1]) if len(measured) > 1 else (),
        swaps=tuple(
            Swap(at_s, adapter, previous, "promotion", story.customers.answered, story.customers.failed)
            for at_s, previous, adapter in story.swaps
        ),
        progress=tuple(ProgressPoint(at_s, labelled) for at_s, labelled in story.progress),
        explanations=_explanations(stores, dataset),
        notes=(*told.sentences(), *_notes(story)),
        evaluated=_evaluated(rounds, stores),
        theta=tuple(theta_points(last, labels, selection, right)),
        votes=tuple(vote_points(last, labels, selection, right)),
    )


def figures(data: ReportData, story: Story, told: Told, memory: Memory) -> dict[str, Any]:
    """The summary as JSON values; what `semievold demo -o json` prints."""
    return {
        "seconds": round(story.seconds, 1),
        "peak_memory_gib": round(memory.peak / 2**30, 2),
        "swaps": len(story.swaps),
        "client_requests": story.customers.answered,
        "client_failures": story.customers.failed,
        "base_test_accuracy": _accuracy(story.measurements.get("base")),
        "rounds": [
            {
                "number": round_.number,
                "kind": round_.kind,
                "state": round_.state,
                "labels_false": round_.number == story.poisoned,
                "test_before": None if round_.test_before is None else round_.test_before.accuracy,
                "test_after": None if round_.test_after is None else round_.test_after.accuracy,
                "holdout_before": None if round_.holdout_before is None else round_.holdout_before.accuracy,
                "holdout_after": None if round_.holdout_after is None else round_.holdout_after.accuracy,
                "p_better": round_.p_better,
                "pool": round_.pool,
                "selected": round_.selected,
                "selected_precision": round_.selected_precision,
                "training_s": round_.training_s,
            }
            for round_ in data.rounds
        ],
        **told.as_json(),
    }


def _accuracy(measurement: Measurement | None) -> float | None:
    return None if measurement is None else measurement.score.accuracy


def _round(round_: Round, story: Story, stores: Stores, place: RoundPlace, dataset: Dataset) -> RoundReport:
    evaluation, taken = round_.evaluation or {}, round_.snapshot or {}
    holdout = int(evaluation.get("holdout") or 0)

    def held(accuracy: float | None) -> Score | None:
        return None if accuracy is None else Score(round(accuracy * holdout), holdout)

    before = story.measurements.get(round_.incumbent or "base")
    after = story.measurements.get(round_.adapter or "")
    members = stores.rounds.members(round_.number)
    chosen = [query_id for query_id, selected in members.items() if selected]
    answers = _trained_answers(place, round_)
    training = round_.training or {}
    return RoundReport(
        number=round_.number,
        kind=round_.kind + (" (labels that all say one answer)" if round_.number == story.poisoned else ""),
        state=round_.state.value,
        adapter=round_.adapter,
        reason=round_.reason or evaluation.get("reason"),
        decision=evaluation.get("decision"),
        p_better=evaluation.get("p_better"),
        wins=evaluation.get("wins"),
        losses_to_incumbent=evaluation.get("losses"),
        holdout_before=held(evaluation.get("incumbent_accuracy")),
        holdout_after=held(evaluation.get("candidate_accuracy")),
        test_before=None if before is None else before.score,
        test_after=None if after is None else after.score,
        pool=len(members),
        selected=len(chosen),
        selected_correct=sum(dataset.answers[id_] == answer for id_, answer in answers.items()) if chosen else None,
        threshold=taken.get("threshold") if members else None,
        training_s=training.get("wall_s"),
        losses=tuple(story.losses.get(round_.number, ())),
        started_s=round_.created_at - story.started_at,
        ended_s=round_.updated_at - story.started_at,
    )


def _trained_answers(place: RoundPlace, round_: Round) -> dict[str, str]:
    """The pseudo-labels as the round trained on them: a later round may have labelled the queries again."""
    directory = place.training(round_).snapshot
    rows = read_snapshot(directory)[1] if directory.exists() else []
    return {row.id: row.completion for row in rows if row.kind == "pseudo-label"}


def _last_pool(rounds: list[Round], stores: Stores) -> tuple[int, list[PseudoLabel]]:
    """The last evolve round and its pool; round 0, and nothing, where there was none."""
    last = next((round_.number for round_ in reversed(rounds) if round_.kind == "evolve"), 0)
    return last, list(stores.pseudo_labels.load(sorted(stores.rounds.members(last)))) if last else []


def _pool(number: int, labels: list[PseudoLabel], stores: Stores, dataset: Dataset) -> tuple[PoolPoint, ...]:
    members = stores.rounds.members(number) if labels else {}
    return tuple(
        PoolPoint(
            number,
            label.entropy,
            label.confidence,
            members[label.query.id],
            label.answer == dataset.answers[label.query.id],
        )
        for label in labels
    )


def _evaluated(rounds: list[Round], stores: Stores) -> tuple[Evaluated, ...]:
    """What every promoted adapter answered to the holdout."""
    found = []
    for round_ in rounds:
        if round_.adapter is None or round_.state not in (RoundState.PROMOTED, RoundState.SETTLED):
            continue
        outcomes = [stored.outcome for stored in stores.rounds.outcomes_as_candidate(round_.adapter).values()]
        answers = tuple(Answered(o.entropy, o.correct, o.category) for o in outcomes)
        score = Score(sum(answer.correct for answer in answers), len(answers))
        name = "warm" if round_.kind == "warm" else f"round {round_.number}"
        found.append(Evaluated(name, round_.adapter, "holdout", score, answers))
    return tuple(found)


def _categories(before: Measurement, after: Measurement) -> tuple[CategoryScore, ...]:
    def by_category(measurement: Measurement) -> dict[str, Score]:
        total: Counter[str] = Counter(o.category or "" for o in measurement.outcomes)
        right: Counter[str] = Counter(o.category or "" for o in measurement.outcomes if o.correct)
        return {name: Score(right[name], total[name]) for name in total}

    first, last = by_category(before), by_category(after)
    return tuple(CategoryScore(name, first[name], last[name]) for name in sorted(last))


def _confusions(before: Measurement, after: Measurement) -> tuple[Confusion, ...]:
    def wrong(measurement: Measurement) -> Counter[tuple[str, str | None]]:
        return Counter((o.expected, o.answer) for o in measurement.outcomes if not o.correct)

    first, last = wrong(before), wrong(after)
    return tuple(Confusion(pair[0], pair[1], first[pair], count) for pair, count in last.most_common(CONFUSED))


def _explanations(stores: Stores, dataset: Dataset) -> tuple[Explanation, ...]:
    """A few queries: the surest and the least sure of the pool."""
    pool = sorted(stores.pseudo_labels.pool(), key=lambda row: (row.entropy, row.id))
    some = pool[: EXPLAINED // 2] + pool[-EXPLAINED // 2 :] if len(pool) > EXPLAINED else pool
    return tuple(_explanation(explain(stores, row.id), dataset.answers.get(row.id)) for row in some)


def _explanation(view: dict[str, Any], truth: str | None) -> Explanation:
    use: dict[str, Any] = view["rounds"][-1] if view["rounds"] else {"selected": False, "reason": "in no round yet"}
    return Explanation(
        id=view["id"],
        question=view["question"],
        answer=view["answer"],
        entropy=_nats(view["entropy"]),
        agreement=view["agreement"],
        selected=use["selected"],
        adapter=view["adapter"],
        truth=truth,
        reason=use["reason"],
        justified=view["self_justified"],
        neighbours=tuple(
            ShownNeighbour(n["id"], n["question"] or "(retracted)", n["answer"] or "", n["similarity"])
            for n in view["neighbours"]
        ),
        candidates=tuple(Candidate(**{**c, "entropy": _nats(c["entropy"])}) for c in view["candidates"]),
    )


def _nats(entropy: float | None) -> float:
    return math.inf if entropy is None else entropy


def _notes(story: Story) -> tuple[str, ...]:
    notes = ["Test questions were never labelled, retrieved or trained on; they were asked through the gateway."]
    if story.poisoned is not None:
        notes.append(f"Round {story.poisoned} was trained on labels that lie on purpose, to show it taken back.")
    return tuple(notes)
