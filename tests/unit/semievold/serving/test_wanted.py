"""What the replicas are to hold, and what gives way."""

from __future__ import annotations

from semievold.serving.wanted import WantedAdapters
from tests.scripted_replicas import adapter

ONE, TWO, THREE, FOUR = (adapter(number) for number in (1, 2, 3, 4))


def nobody_uses(name: str) -> bool:
    return False


def names(wanted: WantedAdapters) -> list[str]:
    return [each.name for each in wanted.in_order()]


def test_what_serves_comes_first_then_the_newest_candidate_and_the_way_back_last() -> None:
    wanted = WantedAdapters(4)
    wanted.keep(ONE, TWO)
    wanted.add(THREE, nobody_uses)
    wanted.add(FOUR, nobody_uses)
    assert names(wanted) == [ONE.name, FOUR.name, THREE.name, TWO.name]
    assert wanted.serving == ONE.name


def test_what_served_before_stays_wanted_until_it_is_dropped() -> None:
    wanted = WantedAdapters(4)
    wanted.keep(ONE, None)
    wanted.keep(TWO, None)
    assert ONE.name in wanted
    wanted.drop(ONE.name)
    assert names(wanted) == [TWO.name]


def test_what_serves_cannot_be_dropped() -> None:
    wanted = WantedAdapters(4)
    wanted.keep(ONE, TWO)
    wanted.drop(ONE.name)
    wanted.drop(TWO.name)
    assert names(wanted) == [ONE.name, TWO.name]


def test_the_oldest_idle_candidate_gives_way_to_a_new_one() -> None:
    wanted = WantedAdapters(3)
    wanted.keep(ONE, None)
    for each in (TWO, THREE, FOUR):
        wanted.add(each, nobody_uses)
    assert names(wanted) == [ONE.name, FOUR.name, THREE.name]


def test_what_is_in_use_or_protected_gives_way_to_nobody() -> None:
    wanted = WantedAdapters(2)
    wanted.keep(ONE, None)
    wanted.add(TWO, nobody_uses)
    wanted.add(THREE, lambda name: name == TWO.name)
    assert {TWO.name, THREE.name} <= set(names(wanted))
    wanted.protected = frozenset({TWO.name})
    wanted.add(FOUR, nobody_uses)
    assert names(wanted) == [ONE.name, FOUR.name, TWO.name]
