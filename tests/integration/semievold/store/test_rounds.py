from collections.abc import Iterator

import pytest

from semievol.types import Outcome
from semievold.errors import StateConflict
from semievold.round_states import RoundState
from semievold.store.outcomes import StoredOutcome
from semievold.store.rounds import Membership
from semievold.store.stores import Stores, open_stores, stores_over

S = RoundState
ADAPTER = {"name": "w-r0000-aaaa", "path": "/adapters/a", "content_hash": "ff", "parent": None}


@pytest.fixture
def stores(store_url: str) -> Iterator[Stores]:
    stores = open_stores(store_url, "w", "assistant")
    yield stores
    stores.database.close()


def planned(stores: Stores) -> int:
    return stores.rounds.plan("warm", "test", 7, None, {}).number


def walk_to_attested(stores: Stores, number: int, name: str) -> None:
    stores.rounds.transition(number, S.PLANNED, S.SNAPSHOTTED)
    stores.rounds.transition(number, S.SNAPSHOTTED, S.TRAINING)
    stores.rounds.trained(number, {"steps": 1}, {**ADAPTER, "name": name})
    stores.rounds.transition(number, S.TRAINED, S.LOADED)
    stores.rounds.transition(number, S.LOADED, S.EVALUATED)
    stores.rounds.transition(number, S.EVALUATED, S.ATTESTED)


def promote(stores: Stores, name: str) -> int:
    number = planned(stores)
    walk_to_attested(stores, number, name)
    stores.rounds.promote(number, "assistant", name, stores.alias.get().generation)
    return number


def test_a_promotion_does_not_overwrite_a_move_by_hand_made_meanwhile(stores: Stores) -> None:
    number = planned(stores)
    walk_to_attested(stores, number, "a")
    generation = stores.alias.get().generation
    stores.alias.move(None)
    with pytest.raises(StateConflict, match="was moved while round 0"):
        stores.rounds.promote(number, "assistant", "a", generation)
    assert stores.rounds.all()[0].state is S.ATTESTED


def test_a_move_by_hand_answers_its_request_in_the_same_transaction(stores: Stores) -> None:
    promote(stores, "a")
    request = stores.requests.add("rollback", {})
    stores.alias.move(None, request)
    answered = stores.requests.get(request)
    assert answered is not None
    assert (answered.state, answered.result) == ("done", {"from": "a", "to": None})
    stores.requests.answer(request, "refused", {"error": "too late"})  # the first answer stands
    assert stores.requests.pending() == []
    again = stores.requests.get(request)
    assert again is not None
    assert again.state == "done"


def test_an_attempt_that_waited_for_a_component_is_not_counted(stores: Stores) -> None:
    number = planned(stores)
    assert stores.rounds.begin_attempt(number) == 1
    stores.rounds.forget_attempt(number, S.PLANNED)
    assert stores.rounds.begin_attempt(number) == 1


def test_a_second_round_cannot_be_planned_while_one_is_open(stores: Stores) -> None:
    planned(stores)
    with pytest.raises(StateConflict, match="round 0 is still open"):
        planned(stores)


def test_rounds_are_numbered_from_zero_without_gaps(stores: Stores) -> None:
    first = planned(stores)
    stores.rounds.leave(first, S.PLANNED, S.CANCELLED, "test")
    assert (first, planned(stores)) == (0, 1)


def test_a_transition_from_a_state_the_round_is_not_in_changes_nothing(stores: Stores) -> None:
    number = planned(stores)
    stores.rounds.transition(number, S.PLANNED, S.SNAPSHOTTED)
    with pytest.raises(StateConflict, match="not in state planned"):
        stores.rounds.transition(number, S.PLANNED, S.SNAPSHOTTED, members=[Membership("q", True, None)])
    assert stores.rounds.members(number) == {}


def test_a_skipped_state_is_refused(stores: Stores) -> None:
    number = planned(stores)
    with pytest.raises(StateConflict, match="not a move"):
        stores.rounds.transition(number, S.PLANNED, S.TRAINING)


def test_every_move_leaves_an_event(stores: Stores) -> None:
    number = promote(stores, "w-r0000-aaaa")
    states = [event["to_state"] for event in stores.rounds.events(number)]
    assert states == ["planned", "snapshotted", "training", "trained", "loaded", "evaluated", "attested", "promoted"]


def test_a_promotion_moves_alias_and_adapters_together(stores: Stores) -> None:
    for number, name in enumerate(["w-r0000-aaaa", "w-r0001-bbbb", "w-r0002-cccc"]):
        assert promote(stores, name) == number
        stores.rounds.transition(number, S.PROMOTED, S.SETTLED)
    alias = stores.alias.get()
    assert (alias.adapter, alias.previous, alias.generation) == ("w-r0002-cccc", "w-r0001-bbbb", 3)
    assert {v.name: v.state for v in stores.adapters.all()} == {
        "w-r0000-aaaa": "retired",
        "w-r0001-bbbb": "previous",
        "w-r0002-cccc": "serving",
    }


def test_an_alias_under_another_name_stands_for_what_it_stood_for(stores: Stores) -> None:
    promote(stores, "w-r0000-aaaa")
    renamed = stores_over(stores.database, "w", "helper")
    assert renamed.alias.get() == stores.alias.get()
    renamed.alias.move(None)
    assert (renamed.alias.get().adapter, renamed.alias.get().previous, renamed.alias.get().generation) == (
        None,
        "w-r0000-aaaa",
        2,
    )
    assert stores.alias.get() == renamed.alias.get()  # and back under its first name, nothing is older
    stores.alias.move("w-r0000-aaaa")
    assert renamed.alias.get().generation == 3
    assert stores_over(stores.database, "other", "helper").alias.get().generation == 0


def test_a_rollback_serves_what_served_before(stores: Stores) -> None:
    stores.rounds.transition(promote(stores, "w-r0000-aaaa"), S.PROMOTED, S.SETTLED)
    number = promote(stores, "w-r0001-bbbb")
    ended = stores.rounds.roll_back(
        number, "assistant", "w-r0000-aaaa", "agreement fell", stores.alias.get().generation
    )
    assert (ended.state, ended.reason) == (S.ROLLED_BACK, "agreement fell")
    assert stores.alias.get().adapter == "w-r0000-aaaa"
    assert stores.adapters.get("w-r0000-aaaa").state == "serving"  # type: ignore[union-attr]


def test_an_automatic_rollback_does_not_overwrite_a_move_made_meanwhile(stores: Stores) -> None:
    stores.rounds.transition(promote(stores, "w-r0000-aaaa"), S.PROMOTED, S.SETTLED)
    number = promote(stores, "w-r0001-bbbb")
    watched = stores.alias.get().generation
    stores.alias.move(None)
    with pytest.raises(StateConflict, match="was moved while round 1 was being rolled back"):
        stores.rounds.roll_back(number, "assistant", "w-r0000-aaaa", "agreement fell", watched)
    assert stores.alias.get().adapter is None
    assert stores.rounds.get(number).state is S.PROMOTED  # type: ignore[union-attr]


def test_a_rejected_round_rejects_its_adapter_and_keeps_its_outcomes(stores: Stores) -> None:
    number = planned(stores)
    stores.rounds.transition(number, S.PLANNED, S.SNAPSHOTTED)
    stores.rounds.transition(number, S.SNAPSHOTTED, S.TRAINING)
    stores.rounds.trained(number, {}, ADAPTER)
    stores.rounds.transition(number, S.TRAINED, S.LOADED)
    outcome = StoredOutcome(Outcome("e1", "yes", "no", False, 0.5), "content")
    ended = stores.rounds.leave(number, S.LOADED, S.REJECTED, "worse", outcomes={"candidate": [outcome]})
    assert (ended.state, ended.reason) == (S.REJECTED, "worse")
    assert stores.adapters.get("w-r0000-aaaa").state == "rejected"  # type: ignore[union-attr]


def test_outcomes_come_back_only_for_the_settings_that_they_were_made_under(stores: Stores) -> None:
    number = planned(stores)
    stores.rounds.transition(number, S.PLANNED, S.SNAPSHOTTED)
    stores.rounds.transition(number, S.SNAPSHOTTED, S.TRAINING)
    stores.rounds.trained(number, {}, ADAPTER)
    stores.rounds.transition(number, S.TRAINED, S.LOADED)
    outcomes = {"candidate": [StoredOutcome(Outcome("e1", "yes", "yes", True, 0.5), "content")]}
    evidence = {"settings": "of today"}
    stores.rounds.transition(number, S.LOADED, S.EVALUATED, outcomes=outcomes, evaluation=evidence)
    name = ADAPTER["name"]
    assert stores.rounds.outcomes_as_candidate(name, "of today") == {"e1": outcomes["candidate"][0]}  # type: ignore[arg-type]
    assert stores.rounds.outcomes_as_candidate(name, "of tomorrow") == {}  # type: ignore[arg-type]
    assert stores.rounds.outcomes_as_candidate(name).keys() == {"e1"}  # type: ignore[arg-type]


def test_attempts_count_starts_of_one_state_and_begin_anew_after_a_move(stores: Stores) -> None:
    number = planned(stores)
    assert [stores.rounds.begin_attempt(number), stores.rounds.begin_attempt(number)] == [1, 2]
    stores.rounds.transition(number, S.PLANNED, S.SNAPSHOTTED)
    assert stores.rounds.begin_attempt(number) == 1


def test_memberships_tell_which_rounds_used_a_pseudo_label(stores: Stores) -> None:
    number = planned(stores)
    members = [Membership("q1", True, None, "a", 0.75, 2, 1), Membership("q2", False, "entropy above threshold")]
    stores.rounds.transition(number, S.PLANNED, S.SNAPSHOTTED, members=members)
    refused = {"selected": False, "reason": "entropy above threshold", "answer": None, "consensus": None}
    assert stores.rounds.memberships("q2") == [{"number": 0, **refused, "revision": None, "depth": None}]
    trained = {"selected": True, "reason": None, "answer": "a", "consensus": 0.75}
    assert stores.rounds.memberships("q1") == [{"number": 0, **trained, "revision": 2, "depth": 1}]
