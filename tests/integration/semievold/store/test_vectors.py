"""Vectors beside the examples: found again as they were, and only for what they were made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import sqlalchemy as sa

from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.types import Example, Query
from semievold.store.tables import example_vectors
from semievold.store.vectors import ExampleVectors
from tests.stream_world import World

NewWorld = Callable[..., World]
EMBEDDER = HashingEmbedder(64)


def example(identity: str, question: str = "?", answer: str = "even") -> Example:
    return Example(Query(identity, question), answer)


def embedded(examples: list[Example]) -> np.ndarray:
    return EMBEDDER.embed([each.query.question for each in examples])


@pytest.fixture
def world(new_world: NewWorld) -> World:
    return new_world()


@pytest.fixture
def vectors(world: World) -> ExampleVectors:
    return ExampleVectors(world.database, "w", EMBEDDER)


def test_vectors_come_back_bit_by_bit(world: World, vectors: ExampleVectors) -> None:
    examples = [example(f"é{n}", f"question {n}") for n in range(1200)]
    world.examples.upsert([(each, False) for each in examples if "9" not in each.id])
    made = np.random.default_rng(0).standard_normal((1200, 64)).astype(np.float32)
    vectors.keep(examples, made)
    found = vectors.of(examples)
    expected = {each.id: row for each, row in zip(examples, made, strict=True) if "9" not in each.id}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[identity], row) and row.dtype == np.float32 for identity, row in expected.items())


def test_a_vector_is_of_its_question_embedder_and_workload_alone(world: World, vectors: ExampleVectors) -> None:
    one = example("a", "is it even?")
    world.examples.upsert([(one, False)])
    vectors.keep([one], embedded([one]))
    assert vectors.of([example("a", "is it even?", "odd")]).keys() == {"a"}
    assert vectors.of([example("a", "is it odd?")]) == {}
    assert ExampleVectors(world.database, "w", HashingEmbedder(32)).of([one]) == {}
    assert ExampleVectors(world.database, "other", EMBEDDER).of([one]) == {}
    changed = example("a", "is it odd?")
    vectors.keep([changed], embedded([changed]))
    assert vectors.of([one]) == {}
    assert vectors.of([changed]).keys() == {"a"}


def test_what_is_held_out_retracted_or_unknown_gets_none_and_a_retraction_takes_it(
    world: World, vectors: ExampleVectors
) -> None:
    rows = [example(name) for name in ("trained", "held", "retracted", "unknown")]
    world.examples.upsert([(rows[0], False), (rows[1], True), (rows[2], False)])
    world.examples.retract(["retracted"])
    vectors.keep(rows, embedded(rows))
    assert vectors.of(rows).keys() == {"trained"}
    world.examples.retract(["trained"])
    assert vectors.of(rows) == {}
    with world.database.read() as connection:
        assert connection.execute(sa.select(example_vectors)).all() == []


def test_a_vector_that_was_cut_is_made_again(world: World, vectors: ExampleVectors) -> None:
    one = example("a")
    world.examples.upsert([(one, False)])
    vectors.keep([one], embedded([one]))
    with world.database.write() as connection:
        connection.execute(sa.update(example_vectors).values(vector=b"\x00" * 255))
    assert vectors.of([one]) == {}
