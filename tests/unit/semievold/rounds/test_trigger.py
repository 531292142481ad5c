from dataclasses import replace

from semievold.config.daemon import TriggerConfig
from semievold.rounds.planning.trigger import Observation, Start, Wait, decide

READY_FOR_WARM = Observation(
    training_examples=40,
    holdout_examples=20,
    min_holdout=20,
    labels_lag=0,
    last_label_age_s=60.0,
    warm_ended=False,
    evolve_rounds=0,
    new_pseudo_labels=0,
    last_round_age_s=1e9,
)
WARM_ENDED = replace(READY_FOR_WARM, warm_ended=True, last_round_age_s=10.0)


def test_the_warm_round_starts_once_there_are_enough_examples() -> None:
    assert decide(READY_FOR_WARM, TriggerConfig()) == Start("warm", "40 examples")


def test_the_warm_round_waits_for_examples_holdout_and_the_end_of_an_import() -> None:
    config = TriggerConfig(min_examples=16, labels_quiet_s=3)
    waits = {
        "examples": replace(READY_FOR_WARM, training_examples=15),
        "held-out": replace(READY_FOR_WARM, holdout_examples=19),
        "arriving": replace(READY_FOR_WARM, labels_lag=1),
        "still arriving": replace(READY_FOR_WARM, last_label_age_s=2.9),
    }
    for word, seen in waits.items():
        decision = decide(seen, config)
        assert isinstance(decision, Wait)
        assert word in decision.reason


def test_no_evolve_round_starts_before_the_warm_round_ended() -> None:
    seen = replace(READY_FOR_WARM, training_examples=0, new_pseudo_labels=10_000)
    assert isinstance(decide(seen, TriggerConfig(new_pseudo_labels=10)), Wait)


def test_enough_new_pseudo_labels_start_an_evolve_round() -> None:
    config = TriggerConfig(new_pseudo_labels=100)
    assert isinstance(decide(replace(WARM_ENDED, new_pseudo_labels=99), config), Wait)
    assert decide(replace(WARM_ENDED, new_pseudo_labels=100), config) == Start("evolve", "100 new pseudo-labels")


def test_the_interval_starts_a_round_only_with_something_new() -> None:
    config = TriggerConfig(new_pseudo_labels=None, interval_s=60, min_new=50)
    due = replace(WARM_ENDED, last_round_age_s=61.0, new_pseudo_labels=50)
    assert isinstance(decide(due, config), Start)
    assert isinstance(decide(replace(due, new_pseudo_labels=49), config), Wait)
    assert isinstance(decide(replace(due, last_round_age_s=59.0), config), Wait)


def test_an_unclean_serving_version_is_replaced_whatever_else_is_missing() -> None:
    config = TriggerConfig(new_pseudo_labels=None, max_rounds=1, retry_failed_s=60)
    unclean = replace(WARM_ENDED, evolve_rounds=1, unclean="e7", pseudo_labels=5)
    decision = decide(unclean, config)
    assert isinstance(decision, Start)
    assert (decision.kind, "'e7'" in decision.reason) == ("evolve", True)
    assert len(f"{decide(replace(unclean, unclean='é' * 512), config).reason}") <= 200
    assert getattr(decide(replace(unclean, pseudo_labels=0), config), "kind", None) == "warm"


def test_clean_rounds_that_do_not_replace_it_come_after_longer_and_longer_pauses_and_hold_no_other_up() -> None:
    config = TriggerConfig(new_pseudo_labels=100, retry_failed_s=60)
    tried = replace(WARM_ENDED, unclean="e7", pseudo_labels=5, clean_rounds=2)
    waits = decide(replace(tried, last_round_age_s=119.0), config)
    assert isinstance(waits, Wait)
    assert (waits.waits_for, "'e7'" in waits.reason, "in 1 s" in waits.reason) == ("unclean", True, True)
    assert isinstance(decide(replace(tried, last_round_age_s=120.0), config), Start)
    assert decide(replace(tried, new_pseudo_labels=100), config) == Start("evolve", "100 new pseudo-labels")
    cancelled = decide(replace(tried, clean_rounds=0, last_cancelled=True, last_round_age_s=59.0), config)
    assert isinstance(cancelled, Wait)


def test_max_rounds_ends_automatic_rounds() -> None:
    seen = replace(WARM_ENDED, evolve_rounds=2, new_pseudo_labels=10_000)
    assert isinstance(decide(seen, TriggerConfig(max_rounds=2)), Wait)
    assert isinstance(decide(seen, TriggerConfig(max_rounds=3)), Start)


def test_a_failed_round_is_tried_again_after_a_while_and_not_before() -> None:
    config = TriggerConfig(retry_failed_s=300)
    failed = replace(READY_FOR_WARM, last_failure="out of memory", last_round_age_s=299.0)
    decision = decide(failed, config)
    assert isinstance(decision, Wait)
    assert "out of memory" in decision.reason
    assert isinstance(decide(replace(failed, last_round_age_s=301.0), config), Start)


def test_a_cancelled_round_does_not_start_again_by_itself_at_once() -> None:
    config = TriggerConfig(retry_failed_s=300)
    cancelled = replace(READY_FOR_WARM, last_cancelled=True, last_round_age_s=0.5)
    decision = decide(cancelled, config)
    assert isinstance(decision, Wait)
    assert (decision.waits_for, "cancelled" in decision.reason, "rounds start" in decision.reason) == (
        "cancelled",
        True,
        True,
    )
    assert isinstance(decide(replace(cancelled, last_round_age_s=300.0), config), Start)


def test_a_round_that_fails_for_the_same_reason_again_waits_twice_as_long_and_at_most_a_day() -> None:
    config = TriggerConfig(retry_failed_s=300)
    failed = replace(READY_FOR_WARM, last_failure="e7: too long", failures=3, last_round_age_s=1199.0)
    decision = decide(failed, config)
    assert isinstance(decision, Wait)
    assert "failed 3 times in a row for the same reason (e7: too long)" in decision.reason
    assert isinstance(decide(replace(failed, last_round_age_s=1200.0), config), Start)
    many = replace(failed, failures=10_000, last_round_age_s=86_399.0)
    assert isinstance(decide(many, config), Wait)
    assert isinstance(decide(replace(many, last_round_age_s=86_400.0), config), Start)
