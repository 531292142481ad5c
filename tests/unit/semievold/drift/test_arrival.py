"""In which order queries are weighed, and who waits for whom."""

from __future__ import annotations

import json
import math

from semievold.drift.arrival import MOST_WAITING, WAITING, asked_before, state_of, waiting_in
from semievold.store.drift.events import Answered


def row(offset: int | None, partition: int = 0, *, entropy: float = 0.1) -> Answered:
    topic = None if offset is None else "queries"
    id_ = f"{partition}-{offset}"
    return Answered(id_, 1.0, "A", entropy, 0.9, None, [["e1", 0.5]], None, topic, partition, offset)


def offsets(rows: list[Answered]) -> list[tuple[int | None, int | None]]:
    return [(each.partition, each.offset) for each in rows]


def test_queries_are_weighed_as_they_were_asked_the_partitions_side_by_side() -> None:
    rows = [row(3), row(1), row(2), row(0), row(11, 1), row(10, 1)]
    due, waiting = asked_before(rows, [])
    assert offsets(due) == [(0, 0), (1, 10), (0, 1), (0, 2), (1, 11), (0, 3)]
    assert waiting == []


def test_one_waits_for_what_its_own_partition_answered_later() -> None:
    rows = [row(0), row(2), row(5), row(7, 1)]
    due, waiting = asked_before(rows, [row(3), row(4), row(90, 2)])
    assert offsets(due) == [(0, 0), (1, 7), (0, 2)]
    assert offsets(waiting) == [(0, 5)]
    assert offsets(asked_before([*waiting, row(3), row(4)], [row(6)])[0]) == [(0, 3), (0, 4), (0, 5)]


def test_rows_from_no_topic_keep_the_order_of_their_answers_and_wait_for_nobody() -> None:
    rows = [row(None, number) for number in (4, 2, 9)]
    assert len(asked_before(rows, [row(0)])[0]) == 3
    same = [row(None)._replace(query_id=name) for name in "bac"]
    assert [each.query_id for each in asked_before(same, [row(0)])[0]] == ["b", "a", "c"]


def test_a_topic_that_was_made_anew_lets_nobody_wait_for_ever() -> None:
    rows = [row(number) for number in range(1000, 1001 + MOST_WAITING)]
    due, waiting = asked_before(rows, [row(0)])
    assert (len(due), waiting) == (len(rows), [])
    assert len(asked_before(rows[:-1], [row(0)])[1]) == MOST_WAITING


def test_those_that_wait_are_kept_as_json_an_answer_without_entropy_too() -> None:
    rows = [row(1), row(2, entropy=math.inf)]
    kept = json.loads(json.dumps({WAITING: state_of(rows)}, allow_nan=False))
    assert waiting_in(kept) == rows
    assert waiting_in({}) == []
