"""A loop that is left alone while something goes wrong serves no worse than before, and says why it refused what."""

from __future__ import annotations

import pytest

from tests.scenarios.mail import INTENTS
from tests.scenarios.stories import STORIES
from tests.scenarios.table import unreadable
from tests.scenarios.telling import Tell

pytestmark = pytest.mark.timeout(600)

LOST = 0.01
"""At most this much of the test may the serving adapter lose."""

each_story = pytest.mark.parametrize("name", STORIES)
each_seed = pytest.mark.parametrize("seed", [0, 1, 2])


@each_story
@each_seed
def test_what_serves_ends_at_most_a_point_under_where_it_began(tell: Tell, name: str, seed: int) -> None:
    told = tell(name, seed)
    assert told.ended >= told.began - LOST, told


@each_story
@each_seed
def test_every_refusal_can_be_read_by_who_did_not_write_the_code(tell: Tell, name: str, seed: int) -> None:
    told = tell(name, seed)
    assert [(each, fault) for each in told.refused if (fault := unreadable(each.reason))] == []


@each_seed
def test_a_loop_in_which_nothing_is_wrong_gets_better(tell: Tell, seed: int) -> None:
    told = tell("nothing_wrong", seed)
    assert told.promoted
    assert told.ended > told.began + LOST


@each_seed
def test_the_labels_that_lie_came(tell: Tell, seed: int) -> None:
    flipped = tell("labels_flipped", seed).notes
    assert flipped["flipped"] > 60
    assert flipped["labels that came"] > 400
    assert tell("late_labels_contradict", seed).notes["contradicted"] > 60


@each_seed
def test_the_word_of_the_one_who_spams_is_taken(tell: Tell, seed: int) -> None:
    assert tell("one_source_spams", seed).notes["feedback taken"] > 20


@each_seed
def test_a_flood_freezes_rounds_and_is_named_with_what_can_be_done(tell: Tell, seed: int) -> None:
    told = tell("one_query_floods", seed)
    (frozen,) = (each.reason for each in told.refused if each.state == "frozen")
    assert told.notes["flood"][:50].casefold() in frozen.casefold()
    for said in ("of the 400 queries in its pool", "breaker.max_duplicates", "`semievol thaw`"):
        assert said in frozen


@each_seed
def test_mail_out_of_scope_is_told_as_drift(tell: Tell, seed: int) -> None:
    assert tell("out_of_scope", seed).notes["drift"]


@each_seed
def test_a_candidate_that_forgot_is_rejected_with_the_category_or_what_it_lost(tell: Tell, seed: int) -> None:
    told = tell("candidate_forgets", seed)
    assert not told.promoted
    assert {each.state for each in told.refused} == {"rejected"}
    for each in told.refused:
        assert "significantly worse" in each.reason or any(
            f"category {intent!r} drops" in each.reason for intent in INTENTS
        )


@each_seed
def test_without_a_holdout_nothing_is_promoted_and_it_is_said_what_is_missing(tell: Tell, seed: int) -> None:
    told = tell("holdout_is_empty", seed)
    assert not told.promoted
    missing = "0 held-out examples, fewer than gate.min_holdout (20): label more"
    assert any(missing in each.reason for each in told.refused)
    # What two versions answer to live queries needs no label.
    assert all(missing in each.reason or "on live queries" in each.reason for each in told.refused)


@each_seed
def test_what_the_reviewer_confirmed_was_heard(tell: Tell, seed: int) -> None:
    notes = tell("reviewer_confirms", seed).notes
    assert notes["teach confirmed"] > 20
    assert notes["gate confirmed"] > 0
