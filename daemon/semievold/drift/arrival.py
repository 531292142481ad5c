"""Queries in the order in which they were asked, of rows that come in the order of their answers.

Of the queries that an intake reads together the easy ones are answered first: a few dozen in the order of their answers
are no sample of the traffic, and the hard ones at the end of a backlog would look like a drift. Owns the order, and who
waits for whom: a query for those that were asked before it in its partition and whose answers are known to have come
later. No I/O. Invariant: each row is given out once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from semievold.store.drift.events import Answered, Asked

WAITING = "waiting||"
"""The name of the state that holds the rows which wait."""
MOST_WAITING = 2_000
"""No more wait: offsets of a topic that was made anew begin below all that came before."""


def waiting_in(states: Mapping[str, Any]) -> list[Answered]:
    """The rows that waited at the last look."""
    rows = states.get(WAITING, {"rows": ()})["rows"]
    return [Answered(**{**row, "entropy": math.inf if row["entropy"] is None else row["entropy"]}) for row in rows]


def state_of(waiting: Sequence[Answered]) -> dict[str, Any]:
    """As JSON has it, which has no infinite number; `waiting_in` reads it."""
    rows = [{**row._asdict(), "entropy": row.entropy if math.isfinite(row.entropy) else None} for row in waiting]
    return {"rows": rows}


def asked_before(rows: Sequence[Answered], ahead: Sequence[Asked | Answered]) -> tuple[list[Answered], list[Answered]]:
    """Those of `rows` that were asked before all that is `ahead`, in the order in which they were; and the others."""
    lowest: dict[tuple[str | None, int | None], float] = {}
    for row in ahead:
        if row.offset is not None:
            lowest[_place(row)] = min(row.offset, lowest.get(_place(row), math.inf))
    due: list[Answered] = []
    waiting: list[Answered] = []
    for row in rows:
        waits = row.offset is not None and row.offset > lowest.get(_place(row), math.inf)
        (waiting if waits else due).append(row)
    return (_in_order(rows), []) if len(waiting) > MOST_WAITING else (_in_order(due), waiting)


def _in_order(rows: Sequence[Answered]) -> list[Answered]:
    """By offset; the partitions side by side, for each may have queries of its own kind."""
    by_place: defaultdict[tuple[str | None, int | None], list[Answered]] = defaultdict(list)
    for row in rows:
        by_place[_place(row)].append(row)
    placed: list[tuple[float, Answered]] = []
    for some in by_place.values():
        some.sort(key=lambda row: row.offset or 0)  # those from no topic stay as they are
        placed += [((number + 0.5) / len(some), row) for number, row in enumerate(some)]
    return [row for _, row in sorted(placed, key=lambda each: each[0])]


def _place(row: Asked | Answered) -> tuple[str | None, int | None]:
    return row.topic, row.partition
