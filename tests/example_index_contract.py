"""What every ExampleIndex must do, whatever holds it: inherited by the tests of the local mode and of a Qdrant server.

A test class inherits it and provides the fixture `index`, an empty index over HashingEmbedder(64).
"""

from __future__ import annotations

import pytest

from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.protocols import ExampleIndex
from semievol.types import Example, Message, Query

EXAMPLES = [
    Example(Query("card", "my card has not arrived"), "card arrival"),
    Example(Query("pin", "i forgot my pin"), "change pin"),
    Example(
        Query("sum", "is 2 more than 1", ("no", "yes"), (Message("user", "x"),), "maths", {"n": [1]}), "B", "people"
    ),
]


class ExampleIndexContract:
    @pytest.fixture
    def filled(self, index: ExampleIndex) -> ExampleIndex:
        index.upsert(EXAMPLES)
        return index

    def test_the_nearest_examples_come_first_and_whole(self, filled: ExampleIndex) -> None:
        first, second = filled.neighbours(["has my card arrived", "is 2 more than 1"], 2)
        assert first[0].example.id == "card"
        assert len(first) == 2
        assert first[0].similarity > first[1].similarity
        assert second[0].example == EXAMPLES[2]
        assert second[0].similarity == pytest.approx(1.0, abs=1e-5)

    def test_similarities_are_those_of_the_embedder(self, filled: ExampleIndex) -> None:
        embedder = HashingEmbedder(64)
        expected = embedder.embed(["a pin"]) @ embedder.embed([example.query.question for example in EXAMPLES]).T
        found = filled.neighbours(["a pin"], 3)[0]
        assert [neighbour.similarity for neighbour in found] == pytest.approx(
            sorted(expected[0].tolist(), reverse=True)
        )

    def test_fewer_neighbours_than_asked_when_the_index_holds_fewer(self, filled: ExampleIndex) -> None:
        assert len(filled.neighbours(["x"], 50)[0]) == 3
        assert filled.neighbours(["x", "y"], 0) == [[], []]
        assert filled.neighbours([], 3) == []
        filled.delete([example.id for example in EXAMPLES])
        assert filled.neighbours(["x"], 3) == [[]]

    def test_an_example_is_replaced_and_not_added_twice(self, filled: ExampleIndex) -> None:
        corrected = Example(EXAMPLES[0].query, "lost card")
        filled.upsert([Example(EXAMPLES[0].query, "an earlier mistake"), corrected])
        assert filled.ids() == {"card", "pin", "sum"}
        assert filled.neighbours(["my card has not arrived"], 1)[0][0].example == corrected

    def test_a_deleted_example_is_never_a_neighbour_again(self, filled: ExampleIndex) -> None:
        filled.delete(["card", "unknown"])
        filled.delete([])
        assert filled.ids() == {"pin", "sum"}
        assert {n.example.id for n in filled.neighbours(["my card has not arrived"], 9)[0]} == {"pin", "sum"}

    def test_equal_examples_are_ordered_by_id(self, filled: ExampleIndex) -> None:
        filled.upsert([Example(Query(name, "same words"), name) for name in "dbca"])
        assert [n.example.id for n in filled.neighbours(["same words"], 4)[0]] == ["a", "b", "c", "d"]
