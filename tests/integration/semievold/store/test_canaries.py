"""Canaries in both databases: alias and round change together, and counts are of all processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from semievold.errors import StateConflict
from semievold.monitoring.figures import FigureStore
from semievold.round_states import RoundState
from semievold.store.rollout.canaries import Counted, Tally
from semievold.store.rounds import Round
from semievold.store.stores import Stores, open_stores

S = RoundState


@pytest.fixture
def stores(store_url: str) -> Iterator[Stores]:
    opened = open_stores(store_url, "w", "assistant")
    yield opened
    opened.database.close()


def attested(stores: Stores, name: str) -> Round:
    number = stores.rounds.plan("evolve", "test", 7, None, {}).number
    stores.rounds.transition(number, S.PLANNED, S.SNAPSHOTTED)
    stores.rounds.transition(number, S.SNAPSHOTTED, S.TRAINING)
    adapter = {"name": name, "path": f"/adapters/{name}", "content_hash": "ff", "parent": None}
    stores.rounds.trained(number, {"steps": 1}, adapter)
    stores.rounds.transition(number, S.TRAINED, S.LOADED)
    stores.rounds.transition(number, S.LOADED, S.EVALUATED)
    return stores.rounds.transition(number, S.EVALUATED, S.ATTESTED)


def on_trial(stores: Stores, name: str = "v2") -> Round:
    return stores.canaries.begin(attested(stores, name), (0.05, 1), stores.alias.get().generation)


def test_alias_and_round_go_from_stage_to_stage_together(stores: Stores) -> None:
    round_ = on_trial(stores)
    first = stores.alias.get()
    assert (first.adapter, first.canary and first.canary.adapter, first.generation) == (None, "v2", 1)
    stores.canaries.next_stage(round_.number, 1)
    second = stores.alias.get()
    assert first.canary is not None
    assert second.canary is not None
    assert (second.generation, second.canary.share, second.canary.stage) == (2, 1, 1)
    assert second.canary.salt == first.canary.salt
    with pytest.raises(StateConflict, match="no further stage"):
        stores.canaries.next_stage(round_.number, 2)
    promoted = stores.rounds.promote(round_.number, "assistant", "v2", 2, S.CANARY)
    assert promoted.state is S.PROMOTED
    alias = stores.alias.get()
    assert (alias.adapter, alias.canary, alias.generation) == ("v2", None, 3)


@pytest.mark.parametrize("exit_state", [S.ROLLED_BACK, S.FAILED, S.CANCELLED, S.INCONCLUSIVE])
def test_whatever_ends_the_round_ends_the_canary_with_it(stores: Stores, exit_state: RoundState) -> None:
    round_ = on_trial(stores)
    ended = stores.rounds.leave(
        round_.number, S.CANARY, exit_state, "test", canary={**(round_.canary or {}), "total": 3}
    )
    assert ended.canary is not None
    assert ended.canary["total"] == 3
    alias = stores.alias.get()
    assert (alias.adapter, alias.canary, alias.generation) == (None, None, 2)


def test_a_canary_begins_and_rises_only_from_where_it_was_looked_at(stores: Stores) -> None:
    round_ = attested(stores, "v2")
    stores.alias.move(None)
    with pytest.raises(StateConflict, match="was moved while a canary"):
        stores.canaries.begin(round_, (0.5,), 0)
    found = stores.rounds.get(round_.number)
    assert found is not None
    assert found.state is S.ATTESTED
    assert stores.alias.get().canary is None
    stores.canaries.begin(round_, (0.5, 1), 1)
    with pytest.raises(StateConflict, match="was moved while a canary"):
        stores.canaries.next_stage(round_.number, 1)
    stores.freezes.freeze("a look")
    with pytest.raises(StateConflict, match="frozen"):
        stores.canaries.next_stage(round_.number, 2)


def test_a_rollback_by_hand_answers_its_request_in_the_same_transaction(stores: Stores) -> None:
    round_ = on_trial(stores)
    request = stores.requests.add("rollback", {})
    stores.canaries.roll_back(round_, "by hand", request)
    answered = stores.requests.get(request)
    assert answered is not None
    assert (answered.state, answered.result) == ("done", {"from": "v2", "to": None, "round": round_.number})
    with pytest.raises(StateConflict):
        stores.canaries.roll_back(round_, "by hand", request)


def test_counts_are_sums_over_processes_and_telling_again_adds_nothing(stores: Stores) -> None:
    on_trial(stores)
    for process, answers in (("a", 3), ("b", 5), ("a", 4), ("b", 5)):
        told = [Counted("canary", 0, "gateway", Tally(answers, 1, answers - 1, 0, answers - 1, 2))]
        stores.canaries.count("v2", process, told)
    assert stores.canaries.counted("v2") == [Counted("canary", 0, "gateway", Tally(9, 2, 7, 0, 7, 4))]
    assert stores.canaries.counted("v3") == []


def test_counts_of_an_earlier_canary_are_gone_with_the_next(stores: Stores) -> None:
    first = on_trial(stores)
    stores.canaries.count("v2", "a", [Counted("canary", 0, "gateway", Tally(3))])
    stores.rounds.leave(first.number, S.CANARY, S.ROLLED_BACK, "test")
    on_trial(stores, "v3")
    assert stores.canaries.counted("v2") == []


def test_what_was_seen_is_kept_beside_what_an_operator_asked_for(stores: Stores) -> None:
    round_ = on_trial(stores)
    request = stores.requests.add("advance_round", {"round": round_.number})
    stores.canaries.skip(round_.number, request)
    stores.canaries.note(round_.number, {"total": 7})
    found = stores.rounds.get(round_.number)
    assert found is not None
    assert found.canary is not None
    assert (found.canary["skip"], found.canary["total"]) == (0, 7)
    read = FigureStore(stores.database, "w").read()
    assert (read.open_state, read.canary) == (S.CANARY, found.canary)
