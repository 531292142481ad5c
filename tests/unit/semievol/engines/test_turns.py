"""Whose turn it is: everybody gets as much, whatever they ask for, and labelling its share."""

from __future__ import annotations

from collections import Counter

import pytest

from semievol.engines.stepwise.turns import CREDIT_TOKENS, Turns


def serve(turns: Turns, costs: dict[str, int], seconds: float, *, labelling: bool) -> Counter[str | None]:
    """Who got what: tokens of clients, units of labelling; a client's unit takes `costs` tokens and 10 ms."""
    got: Counter[str | None] = Counter()
    clock = 0.0
    while clock < seconds:
        first = turns.order(list(costs), labelling=labelling)[0]
        clock += 0.01
        if first is None:
            turns.charge_labelling(0.01)
            got[None] += 1
        else:
            turns.charge_clients({first: costs[first]}, 0.01)
            got[first] += costs[first]
    return got


def test_clients_get_equal_tokens_however_much_one_asks_at_a_time() -> None:
    got = serve(Turns(0.5), {"sixteen rows": 16, "one row": 1, "another": 1}, 60.0, labelling=False)
    assert max(got.values()) - min(got.values()) <= 16


def test_labelling_gets_its_share_of_the_time_and_all_that_is_left() -> None:
    for share in (0.2, 0.5, 0.8):
        got = serve(Turns(share), {"a": 1, "b": 4}, 100.0, labelling=True)
        assert abs(got[None] / 10_000 - share) < 0.03
    assert serve(Turns(0.2), {}, 1.0, labelling=True)[None] == 100


def test_who_asks_seldom_goes_first_and_before_labelling() -> None:
    turns = Turns(0.5)
    serve(turns, {"a": 1, "b": 1}, 50.0, labelling=True)
    served = 0
    while turns.order(["a", "b", "seldom"], labelling=True)[0] == "seldom":
        turns.charge_clients({"seldom": 1}, 0.001)
        served += 1
    assert CREDIT_TOKENS - 2 <= served <= CREDIT_TOKENS + 2


def test_being_away_gains_no_more_than_the_credit() -> None:
    turns = Turns(0.5)
    serve(turns, {"a": 1, "away": 1}, 1.0, labelling=False)
    serve(turns, {"a": 1}, 500.0, labelling=False)
    got = serve(turns, {"a": 1, "away": 1}, 20.0, labelling=False)
    assert abs(got["away"] - got["a"]) <= CREDIT_TOKENS + 1


def test_a_client_that_comes_back_every_time_gains_nothing_by_its_pauses() -> None:
    turns = Turns(0.5)
    got: Counter[str] = Counter()
    for unit in range(10_000):
        present = ["steady"] if unit % 3 == 0 else ["steady", "pausing"]
        first = turns.order(present, labelling=False)[0]
        assert first is not None
        turns.charge_clients({first: 1}, 0.01)
        got[first] += 1
    assert got["pausing"] <= got["steady"] + CREDIT_TOKENS


def test_labelling_that_was_away_does_not_stop_the_clients() -> None:
    turns = Turns(0.5)
    serve(turns, {"a": 1}, 100.0, labelling=False)
    got = serve(turns, {"a": 1}, 1.0, labelling=True)
    assert got["a"] >= 39


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("unit_s", [0.01, 0.05])
def test_labelling_gets_its_share_though_it_is_away_between_its_batches(share: float, unit_s: float) -> None:
    turns, got, away = Turns(share), 0, 0
    serve(turns, {"a": 1}, 60.0, labelling=True)  # newcomers go ahead
    for _ in range(8_000):
        # Batches of ten units; whoever asked is told, and brings the next one while the engine does two units.
        if turns.order(["a"], labelling=away == 0)[0] is None:
            turns.charge_labelling(unit_s)
            got += 1
            away = 2 if got % 10 == 0 else 0
        else:
            turns.charge_clients({"a": 1}, unit_s)
            away = max(0, away - 1)
    assert abs(got / 8_000 - share) < 0.015


def test_many_names_are_forgotten() -> None:
    turns = Turns(0.5)
    for number in range(5000):
        turns.order([f"client {number}", "steady"], labelling=False)
        turns.charge_clients({f"client {number}": 600, "steady": 700}, 0.1)
    assert len(turns._clients._got) < 2000


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("tokens", [20, 400])
def test_a_long_request_ends_though_newcomers_keep_coming(at_once: int, tokens: int) -> None:
    turns = Turns(0.5)
    serve(turns, {"long": 1, "other": 1}, 20.0, labelling=False)  # it has had 1,000 tokens
    left, number, units = {f"new {each}": tokens for each in range(at_once)}, at_once, 0
    got = 0
    while got < 1_000:
        first = turns.order(["long", *left], labelling=False)[0]
        assert first is not None
        turns.charge_clients({first: 1}, 0.01)
        units += 1
        if first == "long":
            got += 1
        elif left[first] == 1:  # another one comes in its place
            del left[first]
            left[f"new {number}"] = tokens
            number += 1
        else:
            left[first] -= 1
        # Half of the work in its turn, and what the others were lent at first.
        assert units < 2 * (at_once + 1) * 1_000 + 2_000, f"{got} tokens in {units} units"
