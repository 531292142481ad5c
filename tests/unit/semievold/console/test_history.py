"""What is read of the past: moves, measurements, and how sure answers were, at a cost that does not grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import sqlalchemy as sa

from semievol.report.charts import Axis
from semievold.console import charts
from semievold.console.history import OF_EACH, STRETCHES, History, Measured, Move, Stretch
from semievold.store.pseudo_labels import NewLabel, query_hash
from tests.control_world import WORKLOAD, ControlWorld, OpenWorld
from tests.scripted import pseudo_label


def label(world: ControlWorld, numbers: Sequence[int], entropy: float, agreement: float = 1.0) -> None:
    made = [replace(pseudo_label(f"q{n}", f"is {n} odd?", "odd", entropy), agreement=agreement) for n in numbers]
    world.stores.pseudo_labels.add([NewLabel(each, query_hash(each.query)) for each in made])


async def test_moves_are_those_of_rounds_and_people_in_their_order(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 0.0})
    world.teach()
    world.here.start()
    settled = await world.ended(0)
    await world.answered(world.request("rollback"))
    history = History(world.database, WORKLOAD)
    assert [(move.kind, move.round, move.detail) for move in history.moves()] == [
        ("promoted", 0, settled.adapter),
        ("by_hand", None, "rollback to the base model"),
    ]
    assert history.serving_since() == pytest.approx(history.moves()[-1].at, abs=0.01)
    measured = history.measured()
    assert [(each.number, each.state, each.candidate) for each in measured] == [(0, "settled", 1.0)]
    events = {event["to_state"]: event["at"] for event in world.stores.rounds.events(0)}
    assert measured[0].at == events["evaluated"]


async def test_sureness_is_the_mean_of_each_stretch_and_of_the_first_answers_of_many(open_world: OpenWorld) -> None:
    world = open_world()
    history = History(world.database, WORKLOAD)
    start = world.now()
    assert history.labelled_between() is None
    assert history.sureness(start, start + 600) == []
    label(world, range(3 * OF_EACH), 0.2)
    await world.passes(300)
    label(world, [1000], float("inf"), 0.5)
    label(world, [1001], 0.4)
    first, second = history.sureness(start, start + 600)
    assert (first.count, first.entropy, first.agreement) == (OF_EACH, pytest.approx(0.2), 1.0)
    assert (second.count, second.entropy, second.agreement) == (2, pytest.approx(0.4), 0.75)
    assert start <= first.at < second.at <= start + 600
    between = history.labelled_between()
    assert between is not None
    assert between[1] - between[0] == pytest.approx(300, abs=1)


async def test_nothing_of_it_looks_through_all_pseudo_labels(open_world: OpenWorld) -> None:
    world = open_world()
    label(world, range(300), 0.2)
    asked: list[str] = []
    engine = world.database._engine

    def remember(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        asked.append(statement)
        plans.append(
            [row[-1] for row in engine.raw_connection().cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]  # type: ignore[union-attr]
            if "pseudo_labels" in statement
            else []
        )

    plans: list[list[str]] = []
    history = History(world.database, WORKLOAD)
    sa.event.listen(engine, "before_cursor_execute", remember)
    try:
        history.labelled_between()
        history.sureness(world.now() - 60, world.now())
    finally:
        sa.event.remove(engine, "before_cursor_execute", remember)
    steps = [step for plan in plans for step in plan if "pseudo_labels" in step]
    assert len(steps) >= STRETCHES
    assert all("USING INDEX ix_pseudo_labels_created" in step or "COVERING INDEX" in step for step in steps), steps[:5]
    assert not any(step.startswith("SCAN pseudo_labels") for step in steps)


@pytest.mark.parametrize("span", [0.5, 30, 3_000, 90_000, 500_000, 40_000_000, 2_000_000_000])
def test_a_time_axis_has_a_few_round_moments(span: float) -> None:
    axis = charts.time_axis(1_700_000_000.0, 1_700_000_000.0 + span)
    assert isinstance(axis, Axis)
    assert len(axis.ticks) <= 65
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
    assert len({axis.text(tick) for tick in axis.ticks}) == len(axis.ticks) or span > 30_000_000


def test_charts_escape_what_they_are_told_and_draw_whatever_there_is() -> None:
    moves = [
        Move(5.0, "promoted", "<b>", 0),
        Move(6.0, "rolled_back", "</svg><script>", 1),
        Move(1e12, "by_hand", "later"),
    ]
    drawn = charts.accuracy(
        [Measured(0, 4.0, "settled", 0.1, 0.9), Measured(1, 6.0, "failed", 0.9, 0.2)], moves, 0.0, 10.0
    )
    assert drawn.svg is not None
    assert "<script>" not in drawn.svg
    assert drawn.svg.count('class="moment') == 2
    one = [Stretch(5.0, 1, None, 1.0)]
    assert charts.entropy(one, moves, 0.0, 10.0).svg is None
    assert charts.agreement(one, [], 5.0, 5.0).svg is not None
    for value in (0.0, 1.0, 19.0, 1e6, 1e300, float("inf")):
        assert "nan" not in charts.evidence(value, 20.0, 1.0)


def test_the_line_of_what_served_ends_where_the_alias_moved_again() -> None:
    measured = [Measured(0, 1.0, "settled", 0.1, 0.7), Measured(1, 3.0, "rolled_back", 0.7, 0.9)]
    moves = [
        Move(2.0, "promoted", "a", 0),
        Move(4.0, "promoted", "b", 1),
        Move(5.0, "rolled_back", "worse", 1),
        Move(6.0, "promoted", "c", 7),
    ]
    assert charts.served(measured, moves, 10.0) == [(2.0, 4.0, 0.7), (4.0, 5.0, 0.9)]
    assert charts.served(measured, moves[:1], 10.0) == [(2.0, 10.0, 0.7)]
