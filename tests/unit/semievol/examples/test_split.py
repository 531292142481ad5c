from hypothesis import given
from hypothesis import strategies as st

from semievol.examples.split import (
    HoldoutRule,
    asked_key,
    is_holdout,
    one_a_question,
    split_calibration,
    split_examples,
)
from semievol.types import Example, Message, Query

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


KEYS = [f"question {n}" for n in range(100)]


def asked(keys: list[str]) -> dict[str, str]:
    """Each asked once, by an example whose id is the question."""
    return {key: key for key in keys}


def held(sides: dict[str, bool]) -> int:
    return sum(sides.values())


def test_at_least_as_many_are_held_out_as_the_gate_wants() -> None:
    """The hash alone picks 17 of these hundred, with this salt."""
    assert sum(is_holdout(key, 0.2, "w") for key in KEYS) == 17
    assert held(HoldoutRule(0.2, "w", 20, 16).sides(asked(KEYS), {}, 0, 0)) == 20


def test_training_comes_first_where_there_are_not_enough_for_both() -> None:
    rule = HoldoutRule(0.01, "", 20, 16)
    assert held(rule.sides(asked(KEYS[:16]), {}, 0, 0)) == 0
    assert held(rule.sides(asked(KEYS[:30]), {}, 0, 0)) == 14
    assert held(rule.sides(asked(KEYS[:36]), {}, 0, 0)) == 20
    assert held(rule.sides(asked(KEYS[:60]), {}, 0, 0)) == 20


@given(st.permutations(KEYS), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_whatever_order_examples_arrive_in_the_gate_gets_its_number_and_nobody_changes_sides(
    keys: list[str], sizes: list[int]
) -> None:
    rule = HoldoutRule(0.2, "holdout", 20, 16)
    known: dict[str, bool] = {}
    rest = keys
    while rest:
        size = sizes[len(known) % len(sizes)]
        batch, rest = rest[:size], rest[size:]
        holdout = held(known)
        before = {key: known[key] for key in batch if key in known}
        known |= rule.sides(asked(batch), before, len(known) - holdout, holdout)
    assert 20 <= held(known) <= 37
    again = rule.sides(asked(keys), known, len(known) - held(known), held(known))
    assert again == known


def test_with_many_examples_the_hash_alone_decides() -> None:
    many = [f"q{n}" for n in range(2_000)]
    sides = HoldoutRule(0.2, "s", 20, 16).sides(asked(many), {}, 0, 0)
    assert sides == {key: is_holdout(key, 0.2, "s") for key in many}


def test_copies_of_one_question_are_one_question() -> None:
    one = Query("a", "What  is\u00a0this?", ("Yes", "no"))
    assert asked_key(one) == asked_key(Query("b", " what is THIS?", ("No", "yes"), category="c", metadata={"x": 1}))
    assert asked_key(one) != asked_key(Query("a", "What is that?", ("Yes", "no")))
    assert asked_key(one) != asked_key(Query("a", "What is this?"))
    said = Query("c", "hi", None, (Message("user", "hi"),))
    assert asked_key(said) == asked_key(Query("d", "Hi"))
    longer = Query("e", "hi", None, (Message("user", "first"), Message("assistant", "yes"), Message("user", "hi")))
    assert asked_key(longer) != asked_key(said)


def test_of_examples_that_ask_the_same_one_stands_for_all() -> None:
    examples = [Example(Query(f"e{n}", f"question {n // 3}"), "a") for n in range(9)]
    assert [each.id for each in one_a_question(examples)] == ["e0", "e3", "e6"]


def test_a_question_asked_once_has_the_side_that_its_id_gives_and_copies_follow_the_first() -> None:
    single = [Example(Query(f"e{n}", f"question {n}"), "a") for n in range(200)]
    kept, held_out = split_examples(single, 0.2, 20)
    assert [each.id for each in held_out] == [each.id for each in single if is_holdout(each.id, 0.2)]
    copies = [Example(Query(f"copy-{each.id}", each.query.question.upper()), "b") for each in single]
    kept_with_copies, same = split_examples([*single, *copies], 0.2, 20)
    assert same == held_out
    assert {each.id for each in kept_with_copies} == {f"{copy}{each.id}" for each in kept for copy in ("", "copy-")}


def test_who_is_calibrated_on_is_decided_by_the_question_alone_whoever_arrives_later() -> None:
    first = [Example(Query(f"e{i}", f"question {i}"), "a") for i in range(200)]
    later = [Example(Query(f"later-{i}", f"QUESTION  {i}"), "a") for i in range(400)]
    kept, calibration = split_calibration(first, 0.25)
    assert 30 < len(calibration) < 70
    more, grown = split_calibration([*first, *later], 0.25)
    assert grown[: len(calibration)] == calibration
    asked = {asked_key(example.query) for example in grown}
    assert len(asked) == len(grown)
    assert not asked & {asked_key(example.query) for example in more}
    assert {each.id for each in kept} <= {each.id for each in more}


def test_without_a_share_nobody_is_calibrated_on() -> None:
    examples = [Example(Query(f"e{i}", f"question {i}"), "a") for i in range(50)]
    assert split_calibration(examples, 0.0) == (tuple(examples), ())
    assert not any(HoldoutRule(0.2).calibrates(asked_key(example.query)) for example in examples)
