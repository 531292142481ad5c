"""The collapse breaker: what a round is about to train on, measured, and held against bounds; with reasons in words.

Owns the measures and what is said of a breach; what becomes of it is in `semievold.rounds.planning.choosing`. A loop
that collapses is sure of itself, so nothing here looks at confidence. Invariant: too little evidence is no breach.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from semievol.examples.near import near_key
from semievol.plain_lines import one_line
from semievol.types import Outcome
from semievold.config.daemon import DaemonConfig
from semievold.rounds import deciding
from semievold.rounds.pool import ASKED_BEFORE, ASKED_NEARLY
from semievold.rounds.snapshot import Snapshot
from semievold.store.rounds import Round
from semievold.store.stores import Stores

Measure = Literal["answers", "real_labels", "depth", "anchor_disagreement", "duplicates"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
SERVING_IN_DOUBT: frozenset[Measure] = frozenset({"answers", "depth", "anchor_disagreement"})
"""What speaks against the version that labelled, and not against what it was asked."""
_SHOWN = 60
"""Characters of a text from outside."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure beside its bound; None: nothing to measure, or no bound. `words`: what is wrong, if it is."""

    figure: float | None
    bound: float | None
    breached: bool = False
    words: str = ""


Measures = Mapping[Measure, Measured]


def breaches(measures: Measures) -> list[Measure]:
    """The measures whose bound does not hold."""
    return [name for name, each in measures.items() if each.breached]


def as_json(measures: Measures) -> dict[str, Any]:
    """For the round's row."""
    figures = {name: {"figure": each.figure, "bound": each.bound} for name, each in measures.items()}
    return {"measures": figures, "breaches": breaches(measures)}


def measure(stores: Stores, config: DaemonConfig, chosen: Snapshot, labeller: str | None) -> Measures:
    """All measures of an evolve round that has chosen its rows. Blocking.

    `labeller`: the version that labelled the pool; None: the base model.
    """
    return {
        "answers": _answers(chosen, config),
        "real_labels": _real_labels(chosen, config),
        "depth": _depth(stores, chosen, config),
        "anchor_disagreement": _beside_anchor(stores, config, labeller),
        "duplicates": _duplicates(stores, chosen, config),
    }


def effective_number(counts: Counter[str]) -> float:
    """exp(H): of how many equally frequent things the counts have the entropy; 0 of none."""
    total = counts.total()
    return math.exp(-sum(n / total * math.log(n / total) for n in counts.values())) if total else 0.0


def _answers(chosen: Snapshot, config: DaemonConfig) -> Measured:
    learned: Counter[str] = Counter(row.completion for row in chosen.rows if row.kind != "example")
    known: Counter[str] = Counter(row.completion for row in chosen.rows if row.kind == "example")
    count, bound = chosen.manifest["selected"], config.breaker.min_answers
    # So few rows cannot show more answers than there are of them.
    spread, widest = effective_number(learned), min(effective_number(known), float(count))
    if count < config.breaker.min_count or widest <= 1.0 or not learned:
        return Measured(None, bound)
    figure = (spread - 1.0) / (widest - 1.0)
    answer, times = learned.most_common(1)[0]
    least = 1.0 + (bound or 0.0) * (widest - 1.0)
    return Measured(
        figure,
        bound,
        bound is not None and figure < bound,
        f"the {count:,} pseudo-labels that it selected have nearly one answer ({times / learned.total():.0%} are "
        f"{_text(answer)}): they spread like {spread:.1f} equally frequent answers, the labelled examples like "
        f"{widest:.1f}, and {least:.1f} are asked for (breaker.min_answers)",
    )


def _real_labels(chosen: Snapshot, config: DaemonConfig) -> Measured:
    real, bound = sum(row.kind == "example" for row in chosen.rows), config.breaker.min_real_share
    if chosen.manifest["selected"] < config.breaker.min_count:
        return Measured(None, bound)
    figure = real / len(chosen.rows)
    return Measured(
        figure,
        bound,
        bound is not None and figure < bound,
        f"of its {len(chosen.rows):,} training rows only {real:,} are labelled examples ({figure:.2%}, and "
        f"{bound or 0.0:.2%} are asked for: breaker.min_real_share)",
    )


def _depth(stores: Stores, chosen: Snapshot, config: DaemonConfig) -> Measured:
    bound = config.breaker.max_depth
    anchor = stores.adapters.anchor()
    depth = max(0, chosen.manifest["depth"] - stores.lineage.depths().get(anchor, 0))
    return Measured(
        float(depth),
        bound,
        bound is not None and depth > bound,
        f"it would be number {depth} in a row of versions that learned from each other's labels, counted from the "
        f"anchor {anchor or 'base'} (breaker.max_depth is {bound}); `semievol rounds approve R`, for the round of a "
        "version that somebody has looked at, makes that the anchor",
    )


def _beside_anchor(stores: Stores, config: DaemonConfig, labeller: str | None) -> Measured:
    bound, anchor = config.breaker.max_anchor_disagreement, stores.adapters.anchor()
    if labeller is None or anchor is None or anchor == labeller:
        return Measured(None, bound)
    settings = deciding.settings_hash(config)
    theirs, ours = (
        {id_: row.outcome for id_, row in stores.rounds.outcomes_of(name, settings).items()}
        for name in (anchor, labeller)
    )
    known = [id_ for id_, outcome in theirs.items() if outcome.correct and _same_question(outcome, ours.get(id_))]
    if len(known) < config.gate.min_holdout:
        return Measured(None, bound)
    otherwise = sum(not ours[id_].correct for id_ in known)
    figure = otherwise / len(known)
    return Measured(
        figure,
        bound,
        bound is not None and figure > bound,
        f"of {len(known)} held-out questions that the anchor {anchor} answers rightly, {labeller}, which labelled the "
        f"pool, answers {otherwise} otherwise (breaker.max_anchor_disagreement is {bound})",
    )


def _same_question(anchor: Outcome, other: Outcome | None) -> bool:
    return other is not None and other.expected == anchor.expected


def _duplicates(stores: Stores, chosen: Snapshot, config: DaemonConfig) -> Measured:
    pool, bound = chosen.members, config.breaker.max_duplicates
    if len(pool) < config.breaker.min_count:
        return Measured(None, bound)
    copies = [each.query_id for each in pool if each.reason in (ASKED_BEFORE, ASKED_NEARLY)]
    figure = len(copies) / len(pool)
    if bound is None or figure <= bound:
        return Measured(figure, bound)
    return Measured(
        figure,
        bound,
        True,
        f"{len(copies):,} of the {len(pool):,} queries in its pool ask what another one there asks "
        f"({figure:.0%}; breaker.max_duplicates is {bound:.0%}){_most_asked(stores, copies)}",
    )


def _most_asked(stores: Stores, copies: Sequence[str]) -> str:
    asked = stores.pseudo_labels.asked(copies, lambda query: (near_key(query), query.question))
    if not asked:
        return ""
    key, times = Counter(key for key, _ in asked.values()).most_common(1)[0]
    question = next(text for found, text in asked.values() if found == key)
    return f"; {times:,} times it is {_text(question)}"


def said(round_: Round, measures: Measures, found: Sequence[Measure], labeller: str | None, clean: str | None) -> str:
    """Why a round is stopped, and what can be done, for somebody who knows the commands and not the code.

    `found`: the breaches; `clean`: the last clean version before the one that labelled, None: the base model.
    """
    number = round_.number
    doubted = SERVING_IN_DOUBT.intersection(found)
    instead = f"`semievol adapters rollback {clean or 'base'}` serves the last clean version again"
    fine = f"{labeller or 'the base model'} serves on and is not in doubt"
    if clean == labeller:  # the base model labelled
        instead = "There is no earlier version to serve"
    else:
        fine += f"; to go back all the same, {instead}"
    return (
        f"round {number} was stopped before its training: {'; '.join(measures[name].words for name in found)}. "
        f"{instead if doubted else fine}. `semievol rounds cancel {number}` gives the round up, `semievol thaw` alone "
        "trains it all the same"
    )


def _text(text: str) -> str:
    shown = one_line(text)
    return repr(shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "...")
