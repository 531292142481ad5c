"""How much of a round one source has: a flood leaves the others their round, and few sources are not starved."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievold.rounds.shares import beyond_share, most_of_one


@pytest.mark.parametrize(
    ("counts", "unnamed", "most"),
    [
        ({"only": 5_000}, 0, None),  # a deployment with one client
        ({"app": 5_000, "test": 1}, 0, None),  # who has few can take nothing from who has many
        ({}, 1_000, None),
        ({"flood": 1_000}, 400, 100),
        ({"flood": 1_000}, 40, 50),  # a fifth of 50 is 10, and each may have 50
        ({"flood": 100_000, "a": 100, "b": 100, "c": 100, "d": 100}, 0, 100),
        ({"flood": 100_000, **{f"s{n}": 1 for n in range(4)}}, 0, 50),  # sham clients push nobody below that
        ({f"s{n}": 300 for n in range(5)}, 0, 300),
    ],
)
def test_the_bound(counts: dict[str, int], unnamed: int, most: int | None) -> None:
    assert most_of_one(counts, unnamed, 0.2, 50) == most


COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 300), max_size=8)


@given(COUNTS, st.integers(0, 300), st.sampled_from([0.05, 0.2, 0.5, 1.0]), st.integers(1, 60))
def test_no_source_has_more_than_its_share_of_what_is_left(
    counts: dict[str, int], unnamed: int, share: float, least: int
) -> None:
    ids = [f"{name}{number}" for name, count in counts.items() for number in range(count)]
    ids += [f"-{number}" for number in range(unnamed)]
    sources = {each: each[0] for each in ids if each[0] != "-"}
    beyond = beyond_share(ids, sources, share, least)
    left = Counter(sources[each] for each in ids if each in sources and each not in beyond)
    total = left.total() + unnamed
    for name, count in counts.items():
        assert left[name] == count or left[name] >= least
        if (len(counts) + unnamed) * share >= 1:
            assert left[name] <= max(least, share * total + 1e-9)
        else:
            assert left[name] == count


def test_the_surest_of_a_source_stay() -> None:
    ids = [f"q{number}" for number in range(10)]
    assert beyond_share(ids, dict.fromkeys(ids[:6], "one"), 0.2, 2) == {"q2", "q3", "q4", "q5"}
