import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievold.intake.offsets import OffsetTracker


def test_nothing_is_committable_before_the_first_record_is_done() -> None:
    tracker = OffsetTracker()
    tracker.add(0, 7)
    tracker.add(0, 8)
    tracker.done(0, 8)
    assert tracker.committable() == {}


def test_a_commit_never_passes_an_unfinished_record() -> None:
    tracker = OffsetTracker()
    for offset in (3, 4, 9):
        tracker.add(0, offset)
    tracker.done(0, 9)
    tracker.done(0, 3)
    assert tracker.committable() == {0: 4}
    tracker.done(0, 4)
    assert tracker.committable() == {0: 10}


def test_a_committed_offset_is_not_committable_again() -> None:
    tracker = OffsetTracker()
    tracker.add(2, 0)
    tracker.done(2, 0)
    tracker.committed(tracker.committable())
    assert tracker.committable() == {}
    tracker.add(2, 1)
    tracker.done(2, 1)
    assert tracker.committable() == {2: 2}


def test_work_in_flight_on_a_revoked_partition_is_not_committed() -> None:
    tracker = OffsetTracker()
    tracker.add(0, 0)
    tracker.add(1, 0)
    tracker.revoke([0])
    tracker.done(0, 0)
    tracker.done(1, 0)
    assert tracker.committable() == {1: 1}
    assert tracker.in_flight == 0


def test_a_partition_that_comes_back_may_deliver_older_offsets_again() -> None:
    tracker = OffsetTracker()
    tracker.add(0, 5)
    tracker.done(0, 5)
    tracker.revoke([0])
    tracker.add(0, 3)
    assert tracker.committable() == {}
    tracker.done(0, 3)
    assert tracker.committable() == {0: 4}


@pytest.mark.parametrize("offset", [4, 5])
def test_an_offset_that_does_not_rise_is_refused(offset: int) -> None:
    tracker = OffsetTracker()
    tracker.add(0, 5)
    with pytest.raises(ValueError, match="delivered after 5"):
        tracker.add(0, offset)


def test_an_offset_that_was_passed_is_refused() -> None:
    tracker = OffsetTracker()
    tracker.add(0, 5)
    tracker.done(0, 5)
    with pytest.raises(ValueError, match="delivered after 5"):
        tracker.add(0, 5)


@given(
    delivered=st.dictionaries(
        st.integers(0, 3), st.sets(st.integers(0, 200), min_size=1, max_size=30), min_size=1, max_size=4
    ),
    seed=st.integers(0, 2**32),
    unfinished_share=st.floats(0, 1),
)
def test_committable_is_the_first_unfinished_record_whatever_the_order(
    delivered: dict[int, set[int]], seed: int, unfinished_share: float
) -> None:
    rng = random.Random(seed)
    tracker = OffsetTracker()
    for partition, offsets in delivered.items():
        for offset in sorted(offsets):
            tracker.add(partition, offset)
    everything = [(partition, offset) for partition, offsets in delivered.items() for offset in offsets]
    rng.shuffle(everything)
    finished: set[tuple[int, int]] = set()
    for partition, offset in everything:
        if rng.random() < unfinished_share:
            continue
        tracker.done(partition, offset)
        tracker.done(partition, offset)  # at-least-once: telling it twice changes nothing
        finished.add((partition, offset))
        expected = {}
        for p, offsets in delivered.items():
            passed = []
            for o in sorted(offsets):
                if (p, o) not in finished:
                    break
                passed.append(o)
            if passed:
                expected[p] = passed[-1] + 1
        assert tracker.committable() == expected
        assert tracker.in_flight == len(everything) - len(finished)
