"""The two-sample detector: p-values that hold at the actual sizes, shifts that are found and named."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from semievol.drift.mixes import (
    BATCH,
    BUCKETS,
    LARGEST,
    MOST_KINDS,
    MOST_POOL,
    MixDetector,
    _far_out,
    batch_for,
    moved,
    p_value,
)

KINDS = ("a", "b", "c", "d", "e", "f")
BEFORE = (0.3, 0.3, 0.2, 0.1, 0.05, 0.05)


def drawn(rng: np.random.Generator, count: int, shares: tuple[float, ...] = BEFORE) -> list[str]:
    return [str(kind) for kind in rng.choice(KINDS, count, p=shares)]


@pytest.mark.parametrize("size", [20, 400])
def test_p_values_are_uniform_whatever_the_size_of_the_reference(size: int) -> None:
    found = []
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        pool, batch = Counter(drawn(rng, size)), Counter(drawn(rng, 30))
        found.append(p_value(pool, batch, rng, 2000))
    for level in (0.02, 0.05, 0.1):  # at most, as equal draws count against, and ordinary ones are not drawn for
        share = np.mean([p <= level for p in found])
        assert share <= level + 3 * np.sqrt(level * (1 - level) / 1000)
    assert np.mean([p <= 0.1 for p in found]) > 0.03  # and they are no mere ones


@pytest.mark.parametrize(("kinds", "each"), [(2, 100), (3, 100), (20, 50), (64, 10), (64, 2), (200, 2), (500, 1)])
@pytest.mark.parametrize(("wanted", "further"), [(0.03, 0.03), (1e-3, 0.003)])
def test_what_nothing_is_drawn_for_can_be_no_alarm(kinds: int, each: int, wanted: float, further: float) -> None:
    rng = np.random.default_rng(kinds + each)
    together, size = rng.multinomial(kinds * each, [1 / kinds] * kinds), min(256, kinds * each // 3)
    draws = rng.multivariate_hypergeometric(together, size, size=6000)
    expected = together * (size / together.sum())
    distances = ((draws - expected) ** 2 / (expected + 1)).sum(axis=1)
    skipped = ~_far_out(draws, np.tile(together, (len(draws), 1)), np.full(len(draws), wanted))
    assert 0.8 < skipped.mean() < 1  # most, and not all
    assert (distances >= distances[skipped].max()).mean() > further
    assert _far_out(draws, np.tile(together, (len(draws), 1)), np.full(len(draws), 0.1)).all()


def test_a_shift_that_the_first_window_sees_is_not_left_to_a_longer_one() -> None:
    rng = np.random.default_rng(0)
    found = MixDetector(50, 16_001.0, batch_for(500), 0)
    things = [*rng.integers(0, 500, 50), *rng.integers(0, 250, 600)]
    assert found.add_all([str(thing) for thing in things]) == 305


@pytest.mark.parametrize("kinds", [3, 40, MOST_KINDS + 200])
def test_the_same_is_found_however_the_things_are_parted(kinds: int) -> None:
    rng = np.random.default_rng(kinds)
    things = [str(kind) for kind in rng.integers(0, kinds, 3000)] + [str(kind) for kind in rng.integers(0, 2, 600)]
    alone, parted, whole = (MixDetector(200, 5_000.0, BATCH, 1) for _ in range(3))
    raised = [place for place, thing in enumerate(things) if alone.add(thing)]
    found, place = [], 0
    while place < len(things):
        some = things[place : place + int(rng.integers(1, 300))]
        found += [place + last for last in [parted.add_all(some)] if last is not None]
        place += len(some)
        parted.restore(json.loads(json.dumps(parted.state())))
    assert len(raised) == 1
    assert raised == found == [whole.add_all(things)]
    assert alone.state() == parted.state() == whole.state()
    assert alone.folded == (kinds > MOST_KINDS)


def test_alarms_are_no_more_frequent_than_stated() -> None:
    within, every, runs = 960, 6000.0, 40
    alarms = 0
    for seed in range(runs):
        found = MixDetector(100, every, BATCH, seed)
        alarms += any(found.add(kind) for kind in drawn(np.random.default_rng(seed), 100 + within))
    most = runs * within / every
    assert alarms <= most + 2 * np.sqrt(most)


def test_no_shift_raises_no_alarm() -> None:
    for seed in range(4):
        found = MixDetector(300, 20_000.0, BATCH, seed)
        assert not any(found.add(kind) for kind in drawn(np.random.default_rng(seed), 2300))


def test_a_shift_is_found_once_and_named() -> None:
    rng, found = np.random.default_rng(1), MixDetector(500, 100_000.0, BATCH, 1)
    assert not any(found.add(kind) for kind in drawn(rng, 1000))
    shifted = drawn(rng, 1000, (0.1, 0.2, 0.2, 0.1, 0.05, 0.35))
    alarms = [number for number, kind in enumerate(shifted) if found.add(kind)]
    assert len(alarms) == 1
    assert alarms[0] < 500
    assert 950 <= found.began <= 1000 + alarms[0]
    kind, before, since = found.moved(1)[0]
    assert kind == "f"
    assert before == pytest.approx(0.05, abs=0.03)
    assert since == pytest.approx(0.35, abs=0.15)


def test_kinds_that_the_reference_never_had_are_a_shift() -> None:
    rng, found = np.random.default_rng(2), MixDetector(300, 100_000.0, BATCH, 1)
    for kind in drawn(rng, 300):
        found.add(kind)
    assert any(found.add(str(number % 7)) for number in range(6 * BATCH))


def test_a_small_shift_is_seen_by_a_long_window() -> None:
    rng, found = np.random.default_rng(3), MixDetector(2000, 20_000.0, BATCH, 1)
    for kind in drawn(rng, 2000):
        found.add(kind)
    shifted = drawn(rng, 2000, (0.24, 0.3, 0.2, 0.1, 0.05, 0.11))
    at = next(number for number, kind in enumerate(shifted) if found.add(kind))
    assert at > 4 * BATCH
    assert found.moved(1)[0][0] in "af"


def test_what_another_form_of_detector_had_kept_is_begun_anew() -> None:
    found = MixDetector(300, 100_000.0, BATCH, 1)
    found.restore({"seen": 400, "alarmed": True, "pool": {"a": 400}, "batch": {}, "batches": 2})
    assert (found.seen, found.phase) == (0, "reference")


def test_what_was_kept_goes_on_as_if_it_had_never_stopped() -> None:
    kinds = drawn(np.random.default_rng(4), 500)
    whole, first, second = (MixDetector(100, 1e6, BATCH, 9) for _ in range(3))
    for kind in kinds[:277]:
        first.add(kind)
    second.restore(json.loads(json.dumps(first.state())))
    for kind in kinds:
        whole.add(kind)
    for kind in kinds[277:]:
        second.add(kind)
    assert second.state() == whole.state()


def test_a_pool_of_a_billion_is_thinned_and_still_tests() -> None:
    rng, found = np.random.default_rng(5), MixDetector(300, 100_000.0, BATCH, 1)
    for kind in drawn(rng, 300):
        found.add(kind)
    many = {kind: int(share * 4e9) for kind, share in zip(KINDS, BEFORE, strict=True)}
    found.restore({**found.state(), "pool": many})
    assert not any(found.add(kind) for kind in drawn(rng, 10 * BATCH))
    assert MOST_POOL / 4 < found.pool.total() <= MOST_POOL + 10 * BATCH
    for kind, share in zip(KINDS, BEFORE, strict=True):
        assert found.pool[kind] / found.pool.total() == pytest.approx(share, rel=0.01)
    json.dumps(found.state())
    assert any(found.add("f") for _ in range(10 * BATCH))


def test_many_kinds_are_counted_in_buckets_and_a_shift_of_theirs_is_found() -> None:
    found = MixDetector(2000, 100_000.0, LARGEST, 1)
    rng = np.random.default_rng(6)
    quiet = [f"kind {number}" for number in rng.integers(20_000, size=6000)]
    assert not any(found.add(kind) for kind in quiet)
    assert found.folded
    assert len(found.pool) <= BUCKETS < MOST_KINDS
    assert found.pool.total() + sum(each.total() for each in [*found.blocks, found.block]) == 6000
    again = MixDetector(2000, 100_000.0, LARGEST, 1)
    again.restore(json.loads(json.dumps(found.state())))
    assert any(again.add(f"kind {number}") for number in rng.integers(10, size=3000))


def test_what_moved_most_is_what_moved_most_surely() -> None:
    before, since = {"a": 500, "b": 490, "c": 10}, {"a": 40, "b": 30, "c": 30}
    assert next(kind for kind, *_ in moved(before, since, 2)) == "c"
    assert moved({}, {}, 3) == []


def test_a_batch_grows_with_the_kinds_within_bounds() -> None:
    assert [batch_for(kinds) for kinds in (2, 16, 77, 150, 5000)] == [BATCH, BATCH, 156, LARGEST, LARGEST]


@pytest.mark.parametrize("at_once", [7, 1000])
def test_many_at_once_say_what_they_say_one_by_one(at_once: int) -> None:
    rng = np.random.default_rng(8)
    kinds = [*drawn(rng, 900), *drawn(rng, 600, (0.1, 0.2, 0.2, 0.1, 0.05, 0.35))]
    single, together = (MixDetector(300, 20_000.0, BATCH, 2) for _ in range(2))
    raised = [place for place, kind in enumerate(kinds) if single.add(kind)]
    found = [(at, together.add_all(kinds[at : at + at_once])) for at in range(0, len(kinds), at_once)]
    assert [at + place for at, place in found if place is not None] == raised
    assert len(raised) == 1
    assert together.state() == single.state()


def test_a_kind_that_comes_late_is_counted_among_the_others() -> None:
    """What the looks keep of pool and blocks is that of a detector which counts them anew."""
    rng, found = np.random.default_rng(9), MixDetector(100, 1e9, BATCH, 3)
    for part in range(30):
        again = MixDetector(100, 1e9, BATCH, 3)
        again.restore(json.loads(json.dumps(found.state())))
        kinds = [*drawn(rng, 40), f"late {part}"]
        found.add_all(kinds)
        again.add_all(kinds)
        assert again.state() == found.state()
