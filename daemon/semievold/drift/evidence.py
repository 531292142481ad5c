"""What an alarm is kept with: since when, how much, the queries that moved it most, and what these have in common.

Reads alone. Invariant: it explains an alarm and never decides one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from semievol.drift.mixes import MixDetector
from semievol.types import Query
from semievold.drift.detectors import BASE, Raised, category_of, similarity_of, sureness_of
from semievold.store.drift.events import Answered, DriftStore
from semievold.store.pseudo_labels import PseudoLabelStore

WINDOW = 2_000
"""Of the queries since the drift began the newest so many are looked through."""
SHOWN = 10
MOVED = 40
"""Queries of which it is said what they have in common."""
BEFORE = 300
"""Queries before the drift that they are held beside."""
LONG = 120
_WORD = re.compile(r"[^\W\d_]{3,}")


def evidence_of(
    raised: Raised, last: Answered, stores: tuple[DriftStore, PseudoLabelStore], wrong: Sequence[str] = ()
) -> dict[str, Any]:
    """Of one alarm, which `last` has raised; `wrong`: queries whose label says that the answer was."""
    drift, labels = stores
    detector = raised.detector
    count = max(1, raised.count)
    read = drift.newest(min(WINDOW, (4 if raised.category else 2) * count) + BEFORE, last)
    known = drift.examples({row.neighbours[0][0] for row in read if row.neighbours})
    mine = [row for row in read if _is_of(row, raised)]
    if raised.category is not None:
        mine = [row for row in mine if raised.category == category_of(row, known)]
    window, before = mine[:count], mine[count : count + BEFORE]
    if raised.kind == "accuracy":
        moved = [row for row in read if row.query_id in set(wrong)]
    elif isinstance(detector, MixDetector):
        moved = window
    else:
        value, level = _value(raised.kind), detector.level or 0.0
        moved = sorted((row for row in window if value(row) < level), key=value)[:MOVED]
    texts = labels.asked([row.query_id for row in [*moved[:SHOWN], *moved, *before]], _question)
    evidence: dict[str, Any] = {
        "since": window[-1].created_at if window else last.created_at,
        "until": last.created_at,
        "queries": count,
        "statistic": detector.statistic,
        "alarm_line": detector.false_alarm_every,
        "words": words_of([texts.get(row.query_id, "") for row in moved], [texts.get(r.query_id, "") for r in before]),
        "nearest_examples": _nearest(moved, known),
        "categories": _shares(category_of(row, known) for row in moved),
        "answers": _shares(row.answer for row in moved),
        "moved_most": [_shown(row, texts) for row in moved[:SHOWN]],
    }
    if isinstance(detector, MixDetector):
        evidence["shares"] = [
            {"of": kind, "before": round(old, 4), "since": round(new, 4)} for kind, old, new in detector.moved()
        ]
    else:
        assert detector.level is not None
        evidence["level"] = detector.level
        if raised.kind != "accuracy" and window:
            evidence["mean"] = sum(map(_value(raised.kind), window)) / len(window)
    return {"said": _said(raised, evidence), **evidence}


def words_of(moved: Sequence[str], before: Sequence[str], most: int = 8) -> list[str]:
    """Words that many of `moved` have, and three times as many of them as of `before`; the most telling first."""
    here, there = (
        Counter(word for text in texts for word in set(_WORD.findall(text.lower()))) for texts in (moved, before)
    )
    sizes = max(1, len(moved)), max(1, len(before))

    def shares(word: str) -> tuple[float, float]:
        return here[word] / sizes[0], there[word] / sizes[1]

    least = max(2, len(moved) // 20)
    telling = [word for word in here if here[word] >= least and shares(word)[0] >= 3 * shares(word)[1]]
    return sorted(telling, key=lambda word: (shares(word)[1] - shares(word)[0], word))[:most]


def _said(raised: Raised, evidence: dict[str, Any]) -> str:
    where = "" if raised.category is None else f" in category {raised.category!r}"
    by = "" if raised.adapter is None else f" of {raised.adapter}"
    detector = raised.detector
    if isinstance(detector, MixDetector):
        what = "the nearest examples" if raised.kind == "topics" else f"the answers{by}"
        moves = "; ".join(
            f"{each['of'][:40]!r} {each['before']:.1%} -> {each['since']:.1%}" for each in evidence["shares"][:3]
        )
        return f"{what} come in another mix: {moves}"
    at_least = f"{detector.level:.2f} or more before"
    mean = f"{evidence['mean']:.2f} on average" if "mean" in evidence else "less"
    words = ", ".join(evidence["words"][:5])
    of = f"; the queries speak of: {words}" if words else ""
    if raised.kind == "accuracy":
        return f"fewer answers{by}{where} are right than before ({at_least}){of}"
    if raised.kind == "confidence":
        return f"answers{by}{where} are less sure: {mean}, {at_least}{of}"
    return f"queries{where} are less like the examples: {mean}, {at_least}{of}"


def _is_of(row: Answered, raised: Raised) -> bool:
    return raised.adapter is None or (row.adapter or BASE) == raised.adapter


def _value(kind: str) -> Callable[[Answered], float]:
    if kind == "confidence":
        return sureness_of
    return lambda row: similarity_of(row) or 0.0


def _question(query: Query) -> str:
    return query.question


def _shown(row: Answered, texts: dict[str, str]) -> dict[str, Any]:
    similarity = similarity_of(row)
    return {
        "id": row.query_id,
        "question": texts.get(row.query_id, "")[:LONG],
        "answer": row.answer,
        "similarity": None if similarity is None else round(similarity, 3),
        "sureness": round(sureness_of(row), 3),
    }


def _nearest(rows: Sequence[Answered], known: Any, most: int = 5) -> list[dict[str, Any]]:
    counted = Counter(row.neighbours[0][0] for row in rows if row.neighbours)
    return [
        {"id": name, "queries": count, "answer": known.get(name, (None, None))[1]}
        for name, count in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:most]
    ]


def _shares(values: Any, most: int = 5) -> dict[str, float]:
    counted = Counter(value for value in values if value is not None)
    total = max(1, counted.total())
    first = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:most]
    return {value: round(count / total, 3) for value, count in first}
