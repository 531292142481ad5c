"""Shadow pairs in both databases: one a question, in one order, and none that nobody wants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from semievol.examples.near import near_key
from semievol.types import Example, Query
from semievold.errors import StateConflict
from semievold.round_states import RoundState as S
from semievold.store import shadow_pairs
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.shadow_pairs import Answered, Place
from semievold.store.stores import Stores, open_stores
from tests.scripted import pseudo_label


@pytest.fixture
def stores(store_url: str) -> Iterator[Stores]:
    opened = open_stores(store_url, "w", "assistant")
    yield opened
    opened.database.close()


def query(number: int) -> Query:
    return Query(f"q{number}", f"is {number} even?")


def planned(stores: Stores) -> int:
    return stores.rounds.plan("evolve", "test", 7, None, {}).number


def answer(stores: Stores, number: int, queries: list[int], candidate: str | None) -> None:
    said = [Answered(near_key(query(each)), "even", candidate, candidate != "even") for each in queries]
    stores.shadow_pairs.keep(number, said)


def test_a_question_is_drawn_once_and_pairs_stand_in_the_order_of_their_answers(stores: Stores) -> None:
    number, pairs = planned(stores), stores.shadow_pairs
    assert pairs.draw(number, [query(1), query(2), query(3)], "intake") == 3
    assert pairs.draw(number, [Query("again", "Is 1  even"), query(4)], "gateway") == 1
    assert pairs.draw(number, [], "intake") == 0
    answer(stores, number, [2, 1], "odd")
    answer(stores, number, [1, 3, 99], "even")  # one has its answer, one was never drawn
    found = pairs.pairs(number)
    assert [(pair.place, pair.query.id, pair.candidate) for pair in found] == [
        (1, "q2", "odd"),
        (2, "q1", "odd"),
        (3, "q3", "even"),
    ]
    assert pairs.pairs(number, 1, 1) == found[1:2]
    assert pairs.answered(number) == 3
    assert [each.query.id for each in pairs.waiting(number, 10)] == ["q4"]
    assert pairs.among(number, ["q1", "q4", "q99"]) == {"q1"}


def test_what_is_refused_late_or_of_another_round_is_dropped(stores: Stores) -> None:
    number, pairs = planned(stores), stores.shadow_pairs
    pairs.draw(number, [query(1), query(2), query(3)], "intake")
    pairs.keep(number, [], [near_key(query(1))])
    assert len(pairs.waiting(number, 10)) == 2
    assert pairs.drop(number, 0.0) == 0
    assert pairs.drop(number, stores.database.now() + 1) == 2
    stores.rounds.leave(number, S.PLANNED, S.CANCELLED, "test")
    pairs.draw(number, [query(1), query(2)], "intake")
    answer(stores, number, [1], None)
    pairs.drop_of_others(number + 1)
    assert pairs.waiting(number, 10) == []
    assert [(pair.incumbent, pair.candidate) for pair in pairs.pairs(number)] == [("even", None)]


def test_a_label_takes_a_disagreement_from_the_list(stores: Stores) -> None:
    number, pairs = planned(stores), stores.shadow_pairs
    pairs.draw(number, [query(each) for each in range(6)], "intake")
    answer(stores, number, [0, 1, 2], "odd")
    answer(stores, number, [3, 4, 5], "even")
    assert {pair.query.id for pair in pairs.disagreements(number)} == {"q0", "q1", "q2"}
    stores.examples.upsert([(Example(query(1), "odd"), True)])
    assert {pair.query.id for pair in pairs.disagreements(number)} == {"q0", "q2"}


def test_pairs_are_wanted_while_versions_are_compared(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stores.shadow_pairs.wanted() is None
    number = planned(stores)
    for current, following in ((S.PLANNED, S.SNAPSHOTTED), (S.SNAPSHOTTED, S.TRAINING)):
        stores.rounds.transition(number, current, following)
    stores.rounds.trained(number, {}, {"name": "v2", "path": "/v2", "content_hash": "ff", "parent": None})
    for current, following in ((S.TRAINED, S.LOADED), (S.LOADED, S.EVALUATED), (S.EVALUATED, S.ATTESTED)):
        stores.rounds.transition(number, current, following)
    assert stores.shadow_pairs.wanted() is None
    stores.rounds.transition(number, S.ATTESTED, S.PROVING)
    assert stores.shadow_pairs.wanted() == number
    stores.shadow_pairs.draw(number, [query(1), query(2)], "gateway")
    answer(stores, number, [1], "odd")
    monkeypatch.setattr(shadow_pairs, "MOST_PAIRS", 2)
    assert stores.shadow_pairs.wanted() == number
    answer(stores, number, [2], "odd")
    assert stores.shadow_pairs.wanted() is None, "it has pairs enough"
    stores.shadow_pairs.note(number, {"pairs": 3})
    found = stores.rounds.get(number)
    assert found is not None
    assert (found.watch, found.state) == ({"pairs": 3}, S.PROVING)
    stores.rounds.leave(number, S.PROVING, S.REJECTED, "test")
    with pytest.raises(StateConflict, match=f"round {number} has ended"):
        stores.shadow_pairs.note(number, {"pairs": 4})


def test_what_was_labelled_is_looked_through_once_and_failures_are_counted_by_version(stores: Stores) -> None:
    pairs = stores.shadow_pairs
    assert pairs.newest() == Place(0.0, "")
    for numbers, adapter, said in (((1, 2), None, "even"), ((3, 4, 5), "v2", None), ((6,), "v2", "odd")):
        labels = [replace(pseudo_label(f"q{n}", f"is {n} even?", said, 0.2, "now"), adapter=adapter) for n in numbers]
        stores.pseudo_labels.add([NewLabel(each, query_hash(each.query)) for each in labels])
    first, place = pairs.labelled_after(Place(0.0, ""), 4)
    rest, end = pairs.labelled_after(place, 4)
    assert sorted(first + rest) == [f"q{n}" for n in range(1, 7)]
    assert end == pairs.newest()
    assert pairs.labelled_after(end, 4) == ([], end)
    assert (pairs.unparsed("v2", 10, 10), pairs.unparsed("v2", 10, 1)) == ((4, 3), (1, 0))
    assert pairs.unparsed(None, 10, 10) == (2, 0)
    assert pairs.unparsed("v2", 1, 10) == (1, 0)
