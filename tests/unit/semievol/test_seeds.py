from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from semievol.seeds import derive, derive32

PARTS = st.lists(st.one_of(st.integers(), st.sampled_from(("round", "label", "batches", ""))), max_size=4)


def test_seeds_are_what_they_were_when_the_published_adapters_were_trained() -> None:
    assert derive(0, "round", 1) == 7649006451828478897
    assert derive32(7, "lora", "initial weights") == 369787626


@given(st.integers(0, 2**63), PARTS)
def test_a_seed_fits_in_63_bits_and_its_short_form_is_its_low_half(seed: int, parts: list[str | int]) -> None:
    drawn = derive(seed, *parts)
    assert 0 <= drawn < 2**63
    assert derive32(seed, *parts) == drawn & 0xFFFFFFFF


def test_each_purpose_and_each_seed_draws_its_own() -> None:
    drawn = [derive(seed, *parts) for seed in (0, 1) for parts in ((), ("a",), ("a", "b"), ("ab",), ("a", 1), (1, "a"))]
    assert all(one != other for one, other in combinations(drawn, 2))
