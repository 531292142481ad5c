"""How many queries were labelled is asked twice a second, and costs little, however many there are."""

from __future__ import annotations

import pytest

from semievold.rounds import observing
from semievold.rounds.observing import FEW, REST, LabelledQueries, RoundObserver
from tests.control_world import OpenWorld

LOOK_S = 0.5


class Table:
    """Rows, a count of which takes `takes_s` by its own clock."""

    def __init__(self, rows: int, takes_s: float) -> None:
        self.rows, self.takes_s = rows, takes_s
        self.now = 0.0
        self.counts = 0

    def count(self) -> int:
        self.now += self.takes_s
        self.counts += 1
        return self.rows

    def clock(self) -> float:
        return self.now


def test_few_are_counted_at_every_look_also_when_one_count_was_held_up() -> None:
    table = Table(FEW - 1, takes_s=1.0)
    labelled = LabelledQueries(table.count, table.clock)
    assert labelled.number() == FEW - 1
    table.rows += 1
    assert labelled.number() == FEW


def test_many_take_a_fiftieth_of_the_time_and_are_counted_again() -> None:
    table = Table(1_000_000, takes_s=0.3)
    labelled = LabelledQueries(table.count, table.clock)
    for _ in range(1000):
        labelled.number()
        table.now += LOOK_S
    assert table.counts * table.takes_s < 1.1 * table.now / REST
    table.rows += 7
    table.now += REST * table.takes_s
    assert labelled.number() == 1_000_007


def test_some_more_than_few_are_seen_at_the_next_look() -> None:
    table = Table(2 * FEW, takes_s=0.005)
    labelled = LabelledQueries(table.count, table.clock)
    labelled.number()
    table.rows += 1
    table.now += LOOK_S
    assert labelled.number() == 2 * FEW + 1


def test_a_count_from_before_the_last_round_is_made_again() -> None:
    table = Table(1_000_000, takes_s=0.3)
    labelled = LabelledQueries(table.count, table.clock)
    labelled.number()
    table.rows += 500
    assert labelled.number(at_least=1_000_500) == 1_000_500


async def test_the_trigger_looks_at_that_number(open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = open_world()
    observer = RoundObserver(world.config, world.stores)
    world.ask(range(3))
    assert observer.observe().new_pseudo_labels == 3
    monkeypatch.setattr(observing, "FEW", 0)
    monkeypatch.setattr(observing, "REST", 1e9)
    observer = RoundObserver(world.config, world.stores)
    assert observer.observe().new_pseudo_labels == 3
    world.ask(range(3, 6))
    assert observer.observe().new_pseudo_labels == 3
    assert RoundObserver(world.config, world.stores).observe().new_pseudo_labels == 6
