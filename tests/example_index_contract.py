"""What every ExampleIndex must do, whatever holds it: inherited by the tests of the resident one and of Qdrant's.

A test class inherits it and provides the fixture `index`, an empty index over HashingEmbedder(64).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

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
            sorted(expected[0].tolist(), reverse=True), abs=1e-6
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

    def test_what_is_found_does_not_depend_on_what_is_asked_beside_it(self, filled: ExampleIndex) -> None:
        filled.upsert([Example(Query(f"n{number}", f"number {number} of many"), "x") for number in range(300)])
        asked = [f"is it {number} of {number + 7}" for number in range(40)]
        together = filled.neighbours(asked, 4)
        assert [filled.neighbours([question], 4)[0] for question in asked] == together
        for found, question in zip(together, asked, strict=True):
            similarities = HashingEmbedder(64).embed([each.example.query.question for each in found])
            similarities = similarities @ HashingEmbedder(64).embed([question])[0]
            assert [each.similarity for each in found] == pytest.approx(similarities.tolist(), abs=1e-5)
            assert [each.similarity for each in found] == sorted((each.similarity for each in found), reverse=True)

    def test_threads_may_write_and_read_at_once(self, index: ExampleIndex) -> None:
        def work(worker: int) -> None:
            for number in range(10):
                example_id = f"{worker}-{number}"
                index.upsert([Example(Query(example_id, f"question {example_id}"), "x")])
                assert index.neighbours([f"question {example_id}"], 1)[0]
                if number % 2:
                    index.delete([example_id])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert index.ids() == {f"{worker}-{number}" for worker in range(4) for number in range(0, 10, 2)}
