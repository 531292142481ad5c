"""What is waited for is said in the same words by the controller and by whoever reads the state."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from semievol.examples.split import HoldoutRule
from semievol.types import Example, Query
from semievold.config.daemon import DaemonConfig
from semievold.round_states import RoundState
from semievold.rounds import ages, observing
from semievold.rounds.history import CONFIG_OPTION, RoundHistory
from semievold.rounds.observing import RoundObserver
from semievold.store.rounds import Round
from semievold.store.stores import Stores, open_stores
from semievold.store.tables import examples
from tests.looking_control import looking

S = RoundState
CONFIG = DaemonConfig.model_validate({"workload": "w", "model": {"name": "m"}})
RULE = HoldoutRule(0.2, "holdout", CONFIG.gate.min_holdout, CONFIG.trigger.min_examples)


@pytest.fixture
def stores(store_url: str) -> Iterator[Stores]:
    stores = open_stores(store_url, "w", "w")
    yield stores
    stores.database.close()


def add_examples(stores: Stores, count: int, first: int = 0) -> None:
    stores.examples.keep([Example(Query(f"e{n}", f"question {n}"), "a") for n in range(first, first + count)], RULE)


def fail(stores: Stores, reason: str, config_hash: str = CONFIG.hash()) -> None:
    number = stores.rounds.plan("warm", "test", 1, None, {CONFIG_OPTION: config_hash}).number
    stores.rounds.leave(number, S.PLANNED, S.FAILED, reason)


def test_every_stage_of_a_fresh_start_says_what_it_waits_for(stores: Stores) -> None:
    assert observing.waiting_for(CONFIG, stores) == "0 of 16 examples for the warm round"
    add_examples(stores, 30)
    assert observing.waiting_for(CONFIG, stores).startswith("14 of 20 held-out examples")
    add_examples(stores, 6, first=30)
    assert observing.waiting_for(CONFIG, stores, labels_lag=3) == "labels are still arriving (3 labels not read yet)"
    assert observing.held(CONFIG, stores).keys() == {"intake", "control"}
    stores.leases.acquire("a", 60.0)
    assert observing.held(CONFIG, stores).keys() == {"intake"}
    stores.rounds.plan("warm", "test", 1, None, {})
    assert observing.waiting_for(CONFIG, stores) == "round 0 (warm), which is planned"


def test_what_a_first_round_lacks_is_said_before_the_labels_are_read() -> None:
    assert observing.short_of(CONFIG, 36) is None
    lacking = observing.short_of(CONFIG, 35)
    assert lacking is not None
    assert "35 of 36 labelled examples" in lacking


def test_a_label_from_a_clock_that_is_ahead_holds_the_first_round_up_for_a_moment_alone(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = [1000.0]
    monkeypatch.setattr(ages.Moment.__init__, "__defaults__", (ages.time.time, lambda: running[0]))
    add_examples(stores, 40)
    with stores.database.write() as connection:
        connection.execute(sa.update(examples).values(updated_at=4e9))  # decades from now
    observer = RoundObserver(CONFIG, stores)
    assert observer.observe().last_label_age_s == 0.0
    running[0] += CONFIG.trigger.labels_quiet_s
    assert observer.observe().last_label_age_s == CONFIG.trigger.labels_quiet_s


def test_looks_in_several_threads_remember_a_round_once(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when two pages of the console are open: what was counted twice would be waited for in other words."""
    fail(stores, "e7: has 300 tokens")
    history, read = RoundHistory(stores.rounds), stores.rounds.all

    def slowly(*args: Any, **options: Any) -> list[Round]:
        found = read(*args, **options)
        time.sleep(0.1)
        return found

    monkeypatch.setattr(stores.rounds, "all", slowly)
    with ThreadPoolExecutor(4) as pages:
        looks = list(pages.map(lambda _: history.look(), range(4)))
    assert [[each.number for each in look] for look in [*looks, history.look()]] == [[0]] * 5


def test_failures_count_together_only_for_one_reason_under_the_same_settings_and_examples(stores: Stores) -> None:
    observer = RoundObserver(CONFIG, stores)
    fail(stores, "e7: has 300 tokens")
    fail(stores, "another")
    assert observer.observe().failures == 1
    fail(stores, "r0002: e9 has 400 tokens")
    fail(stores, "r0003: e9 has 401 tokens")
    fail(stores, "r0004: e9 has 402 tokens")
    assert observer.observe().failures == 3
    add_examples(stores, 1)
    assert observer.observe().failures == 1


def test_a_failure_under_other_settings_is_tried_again_as_soon_as_the_first(stores: Stores) -> None:
    for _ in range(3):
        fail(stores, "the model is away", "other settings")
    assert RoundObserver(CONFIG, stores).observe().failures == 1


async def test_the_log_says_what_is_waited_for_when_that_changes(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    control = await looking(stores)
    assert (control.waiting_for, control.waits_for) == ("0 of 16 examples for the warm round", "examples")
    add_examples(stores, 5)
    await control.look()
    add_examples(stores, 25, first=5)
    await control.look()
    said = [record.getMessage() for record in caplog.records if "waits for" in record.getMessage()]
    assert [text.split(" examples")[0] for text in said] == ["waits for: 0 of 16", "waits for: 14 of 20 held-out"]


async def test_a_round_that_was_cancelled_does_not_start_again_within_the_second(stores: Stores) -> None:
    add_examples(stores, 40)
    with stores.database.write() as connection:
        connection.execute(sa.update(examples).values(updated_at=0.0))
    control = await looking(stores)
    assert [round_.state for round_ in stores.rounds.all()] == [S.PLANNED]
    stores.requests.add("cancel_round", {"round": 0})
    await control.look()
    await control.look()
    assert [round_.state for round_ in stores.rounds.all()] == [S.CANCELLED]
    assert control.waits_for == "cancelled"
    stores.requests.add("start_round", {"kind": "warm"})
    await control.look()
    assert [round_.number for round_ in stores.rounds.all()] == [1, 0]


def test_a_round_that_has_ended_is_read_once_and_an_open_one_at_every_look(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = RoundHistory(stores.rounds)
    assert history.look() == []
    fail(stores, "one")
    fail(stores, "two")
    stores.rounds.plan("evolve", "test", 1, None, {})
    assert [(each.number, each.state) for each in history.look()] == [(2, S.PLANNED), (1, S.FAILED), (0, S.FAILED)]
    asked: list[int] = []
    read = stores.rounds.all

    def noted(limit: int = 1000, *, first: int = 0) -> list[Round]:
        asked.append(len(found := read(limit, first=first)))
        return found

    monkeypatch.setattr(stores.rounds, "all", noted)
    assert [each.reason for each in history.look()] == [None, "two", "one"]
    stores.rounds.leave(2, S.PLANNED, S.CANCELLED, "three")
    assert [(each.reason, each.decided) for each in history.look()] == [
        ("three", False),
        ("two", False),
        ("one", False),
    ]
    assert [each.reason for each in history.look()] == ["three", "two", "one"]
    assert asked == [1, 1, 0]
