"""Which texts count once, and which are two questions though they look alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.examples.near import kind_of, near_copies, near_key
from semievol.examples.split import asked_key
from semievol.types import Message, Query


def query(text: str, **more: object) -> Query:
    return Query("id", text, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spelling",
    [
        "where is my card?",
        "  WHERE is\tmy card",
        "Where is my card?!!!",
        "Where, is my (card)...",
        "“Where is my card?”",
        "\uff37here is my card\uff1f",
        "Where\u200b is my c\u00adard?",
        "Where is my card ? \u2026",
    ],
)
def test_spellings_of_one_text_are_one(spelling: str) -> None:
    assert near_key(query(spelling)) == near_key(query("Where is my card?"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("is 12 even?", "is 13 even?"),
        ("what is 3 + 4", "what is 3 - 4"),
        ("what is 3*4?", "what is 34?"),
        ("is it -5?", "is it 5?"),
        ("is x < y?", "is x > y?"),
        ("is it 5%?", "is it 5?"),
        ("C#", "C"),
        ("its", "it's"),
        ("résumé", "resume"),
        ("?", "!"),
    ],
)
def test_what_may_be_another_question_stays_one(one: str, other: str) -> None:
    assert near_key(query(one)) != near_key(query(other))


def test_turns_and_options_count() -> None:
    turns = (Message("user", "Hi!"), Message("assistant", "hello"), Message("user", "where?"))
    talk = query("where?", messages=turns)
    assert near_key(talk) != near_key(query("where?"))
    assert near_key(talk) == near_key(query("where", messages=(Message("user", "hi"), *turns[1:])))
    assert near_key(query("x", options=("a", "B."))) == near_key(query("x", options=("b", "a")))
    assert near_key(query("x", options=("a",))) != near_key(query("x"))


@given(st.text(), st.text())
def test_what_asks_the_same_is_near(one: str, other: str) -> None:
    first, second = query(one), query(other)
    if asked_key(first) == asked_key(second):
        assert near_key(first) == near_key(second)


def turned(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_near_vectors_of_one_kind_count_once_and_the_first_stays() -> None:
    vectors = turned(0, 5, 90, 8, 14, 91)
    assert near_copies(vectors, ["k"] * 6, 0.98) == [1, 3, 5]  # 14 degrees from the first is too far
    assert near_copies(vectors, ["k", "l", "k", "l", "k", None], 0.98) == [3]
    assert near_copies(vectors[:0], [], 0.98) == []


def test_blocks_find_what_the_whole_finds() -> None:
    draws = np.random.default_rng(3)
    centres = draws.normal(size=(200, 8))
    rows = np.repeat(centres, 13, axis=0) + draws.normal(size=(2600, 8)) * 0.01
    order = draws.permutation(len(rows))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)[order]
    first = {int(np.flatnonzero(order // 13 == centre)[0]) for centre in range(200)}
    assert set(range(2600)) - set(near_copies(vectors, ["k"] * 2600, 0.98)) == first


def test_numbers_answers_and_options_make_another_kind() -> None:
    assert kind_of(query("is 12 even?"), "yes") == kind_of(query("so, is \uff11\uff12 even"), "yes")
    kinds = {
        kind_of(query("is 12 even?"), "yes"),
        kind_of(query("is 13 even?"), "yes"),
        kind_of(query("is 12 even?"), "no"),
        kind_of(query("is 12 even?", options=("a",)), "yes"),
    }
    assert len(kinds) == 4
    assert kind_of(query("x", messages=(Message("user", "x"),)), "yes") is None
