"""Every request of an operator ends as done, refused or failed, and none ends the loop that carries it out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import insert

from semievol.errors import DataError, TransientError
from semievold.rounds import control as control_module
from semievold.store.requests import checked
from semievold.store.stores import Stores, open_stores
from semievold.store.tables import operator_requests
from tests.looking_control import Fleet, looking


@pytest.fixture
def stores(store_url: str) -> Iterator[Stores]:
    stores = open_stores(store_url, "w", "w")
    yield stores
    stores.database.close()


def write(stores: Stores, kind: str, payload: object) -> int:
    """As an older version, or a hand, would have written it."""
    row = {"workload": "w", "kind": kind, "payload": payload, "state": "pending", "created_at": 0.0, "updated_at": 0.0}
    with stores.database.write() as connection:
        key = connection.execute(insert(operator_requests).values(row)).inserted_primary_key
    assert key is not None
    return int(key[0])


POISON: tuple[tuple[str, Any], ...] = (
    ("cancel_round", {"round": 2**70}),
    ("cancel_round", {"round": 2**40}),
    ("cancel_round", {"round": -1}),
    ("cancel_round", {"round": "seven"}),
    ("cancel_round", {"round": None}),
    ("cancel_round", {}),
    ("cancel_round", []),
    ("start_round", {"kind": "sideways"}),
    ("start_round", {"kind": ["warm"]}),
    ("start_round", {"reason": "x" * 300}),
    ("start_round", {"shuffle_labels": "maybe"}),
    ("start_round", {"colour": "red"}),
    ("promote", {}),
    ("promote", {"adapter": "../../etc"}),
    ("promote", {"adapter": 5}),
    ("explode", {}),
    ("run", {}),
)


async def test_requests_that_can_never_be_carried_out_are_refused_and_the_next_one_is_answered(stores: Stores) -> None:
    poison = [write(stores, kind, payload) for kind, payload in POISON]
    good = stores.requests.add("start_round", {"kind": "warm"})
    await looking(stores)
    for request_id, (kind, payload) in zip(poison, POISON, strict=True):
        answered = stores.requests.get(request_id)
        assert answered is not None
        assert (answered.state, bool(answered.result["error"])) == ("refused", True), (kind, payload)
    answered = stores.requests.get(good)
    assert answered is not None
    assert (answered.state, answered.result) == ("done", {"round": 0})


@pytest.mark.parametrize(("kind", "payload"), POISON)
def test_what_can_never_be_carried_out_is_not_written(stores: Stores, kind: Any, payload: Mapping[str, Any]) -> None:
    with pytest.raises(DataError):
        stores.requests.add(kind, payload)
    assert stores.requests.pending() == []


def test_a_refusal_names_the_field_and_what_there_is() -> None:
    with pytest.raises(DataError, match=r"field 'colour': extra inputs.*known fields: kind, shuffle_labels, reason"):
        checked("start_round", {"colour": "red"})
    with pytest.raises(DataError, match=r"field 'round': input should be less than or equal to 2147483647"):
        checked("cancel_round", {"round": 10**20})
    with pytest.raises(DataError, match="'explode' is not a kind of request; known: start_round"):
        checked("explode", {})


async def test_a_defect_of_ours_fails_the_request_alone(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet()
    fleet.failure = RuntimeError("no one thought of \ud800 this")
    broken = stores.requests.add("promote", {"adapter": "a"})
    good = stores.requests.add("start_round", {})
    await looking(stores, fleet)
    answered = stores.requests.get(broken)
    assert answered is not None
    assert (answered.state, answered.result) == (
        "failed",
        {"error": "RuntimeError: no one thought of \\ud800 this"},
    )
    assert stores.requests.get(good).state == "done"  # type: ignore[union-attr]


async def test_a_request_that_meets_a_silent_component_holds_up_nothing_and_ends(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet()
    fleet.failure = TransientError("no replica answers")
    waiting = stores.requests.add("promote", {"adapter": "a"})
    good = stores.requests.add("start_round", {})
    control = await looking(stores, fleet)
    assert [request.id for request in stores.requests.pending()] == [waiting]
    assert "no replica answers" in str(control.last_error)
    assert stores.requests.get(good).state == "done"  # type: ignore[union-attr]
    monkeypatch.setattr(control_module, "REQUEST_PATIENCE_S", 0.0)
    await control.look()
    answered = stores.requests.get(waiting)
    assert answered is not None
    assert answered.state == "failed"
    assert "given up after 0 s: no replica answers" in answered.result["error"]


@pytest.mark.parametrize("number", [-1, 2**31, 2**63, 2**70])
def test_a_round_of_an_impossible_number_is_one_that_there_is_not(stores: Stores, number: int) -> None:
    assert stores.rounds.get(number) is None
    assert stores.requests.get(number) is None


def test_the_case_of_a_number_beyond_64_bits_is_stored_as_it_was_written(stores: Stores) -> None:
    """What the poison is made of: JSON holds numbers that no column does."""
    request_id = write(stores, "cancel_round", json.loads('{"round": 123456789012345678901234567890}'))
    stored = stores.requests.get(request_id)
    assert stored is not None
    assert stored.payload["round"] > 2**64
