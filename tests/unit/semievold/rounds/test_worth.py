"""The trigger by worth: what a round is expected to bring, what it costs, and what past rounds teach of both."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from semievold.api import operations
from semievold.config.daemon import TriggerConfig
from semievold.config.worth import WorthConfig
from semievold.round_states import RoundState as S
from semievold.rounds.observing import past_round
from semievold.rounds.planning.trigger import Start, Wait, decide
from semievold.rounds.planning.worth import PastRound, weigh
from tests.control_world import OpenWorld
from tests.unit.semievold.rounds.test_trigger import WARM_ENDED

HOUR = 3600.0
DAY = 86_400.0
PRICE = WorthConfig(points_per_hour=4.0, prior_labels=500, prior_points=2.0, drift_points_per_day=0.0)
WARM = PastRound(0, 30.0, None, None, 0.5 * HOUR)


def test_before_any_evolve_round_the_prior_tells_the_gain_and_the_warm_round_the_cost() -> None:
    worth = weigh([WARM], 1000, 0.0, PRICE)
    assert worth.gain_points == pytest.approx(1000 * 0.5 * 2 / 500)
    assert worth.cost_points == pytest.approx(2.0)
    assert worth.pays
    assert not weigh([WARM], 999, 0.0, PRICE).pays


def test_after_as_many_labels_as_the_prior_has_what_rounds_brought_counts_half() -> None:
    past = [WARM, PastRound(1, 6.0, 1000, 0.5, HOUR)]
    assert weigh(past, 100, 0.0, PRICE).points_per_label == pytest.approx((2 + 6) / (500 + 500))


def test_rounds_that_bring_nothing_make_the_next_one_later_each_time() -> None:
    past, needed = [WARM], []
    for number in range(1, 5):
        past.append(PastRound(number, 0.0, 1000, 0.5, HOUR))
        needed.append(next(new for new in range(100_000) if weigh(past, new, 0.0, PRICE).pays))
    assert needed == [2000 * (number + 1) for number in range(1, 5)]


def test_a_round_that_lost_never_makes_labels_worth_less_than_nothing() -> None:
    worth = weigh([PastRound(1, -50.0, 1000, 0.5, 10.0)], 10_000, 0.0, PRICE)
    assert (worth.points_per_label, worth.gain_points, worth.pays) == (0.0, 0.0, False)


def test_time_alone_makes_a_round_worth_its_cost() -> None:
    price = replace_price(drift_points_per_day=0.5)
    assert not weigh([WARM], 0, 3.9 * DAY, price).pays
    assert weigh([WARM], 0, 4.1 * DAY, price).pays


def test_the_cost_is_the_median_of_the_recent_evolve_rounds() -> None:
    times = [9 * HOUR, *(HOUR,) * 2, 20 * HOUR, HOUR, HOUR]
    past = [WARM, *(PastRound(number, 0.0, 10, 0.5, took) for number, took in enumerate(times, 1))]
    assert weigh(past, 0, 0.0, PRICE).took_s == HOUR


def test_a_round_that_trained_nothing_tells_no_cost() -> None:
    worth = weigh([PastRound(1, 0.0, 100, 0.0, None)], 100, 0.0, PRICE)
    assert worth.took_s is None
    assert "not measured yet" in worth.said()


def test_the_trigger_waits_for_worth_and_says_both_numbers() -> None:
    config = TriggerConfig(kind="worth", worth=PRICE, new_pseudo_labels=1, interval_s=1, min_new=50)
    seen = replace(WARM_ENDED, new_pseudo_labels=200, worth=weigh([WARM], 200, 0.0, PRICE))
    waiting = decide(seen, config)
    assert isinstance(waiting, Wait)
    assert waiting.waits_for == "worth"
    assert waiting.reason == (
        "a round that is worth it: an expected gain of 0.40 points (100 new labels to learn from) against a cost of "
        "2.00 points (1800 s)"
    )
    due = replace(seen, new_pseudo_labels=1000, worth=weigh([WARM], 1000, 0.0, PRICE))
    assert isinstance(decide(due, config), Start)
    few = replace(due, new_pseudo_labels=49)
    assert isinstance(decide(few, config), Wait)
    assert "49 of 50 new pseudo-labels (trigger.min_new)" in decide(few, config).reason


async def test_a_daemon_learns_from_its_own_rounds_what_the_next_one_is_worth(
    open_world: OpenWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "semievold.rounds.control")
    price = {"points_per_hour": 1.0, "prior_labels": 100, "prior_points": 1.0, "drift_points_per_day": 0.0}
    world = open_world(trigger={"kind": "worth", "min_new": 5, "worth": price})
    world.teach()
    world.trainer.right = 7
    world.here.start()
    await world.ended(0)
    await world.passes(5)
    assert world.stores.rounds.open() is None
    assert world.here.control.waits_for == "pseudo_labels"
    world.trainer.right = 10
    world.ask(range(40, 80))
    assert (await world.ended(1)).state is S.SETTLED
    assert "an expected gain of 0.20 points (20 new labels to learn from)" in world.round(1).trigger
    told = past_round(world.round(1), 40, world.stores.rounds.events(1))
    assert (told.gain_points, told.new, told.selected_share) == (pytest.approx(30.0), 40, 1.0)
    seen = operations.status(world.config, world.stores, world.place)["worth"]
    assert seen["points_per_label"] == pytest.approx((1.0 + 30.0) / (100 + 40))
    await world.passes(2)
    assert world.here.control.worth is not None
    assert [message for message in caplog.messages if message.startswith("the next round: an expected gain")]


async def test_before_the_first_round_no_time_has_passed_since_one(open_world: OpenWorld) -> None:
    world = open_world(trigger={"kind": "worth", "min_new": 5})
    world.here.start()
    await world.passes(2)
    assert world.here.control.worth is not None
    assert world.here.control.worth.gain_points == 0.0


def replace_price(**values: float) -> WorthConfig:
    return PRICE.model_copy(update=values)
