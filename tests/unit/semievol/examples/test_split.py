from hypothesis import given
from hypothesis import strategies as st

from semievol.examples.split import is_holdout

SHARES = st.floats(0, 1)


def test_the_split_of_an_id_never_changes_between_versions() -> None:
    assert [i for i in range(30) if is_holdout(f"id-{i}", 0.2, "workload")] == [2, 9]


def test_about_the_asked_share_is_held_out() -> None:
    held_out = sum(is_holdout(str(i), 0.2) for i in range(10_000))
    assert 1_850 < held_out < 2_150


def test_another_salt_gives_another_split() -> None:
    ids = [str(i) for i in range(1_000)]
    both = sum(is_holdout(i, 0.5, "a") == is_holdout(i, 0.5, "b") for i in ids)
    assert 400 < both < 600


@given(st.text(), SHARES, SHARES)
def test_raising_the_share_only_adds_to_the_holdout(example_id: str, one: float, other: float) -> None:
    if is_holdout(example_id, min(one, other)):
        assert is_holdout(example_id, max(one, other))


@given(st.text())
def test_nothing_is_held_out_at_zero_and_everything_at_one(example_id: str) -> None:
    assert not is_holdout(example_id, 0.0)
    assert is_holdout(example_id, 1.0)
