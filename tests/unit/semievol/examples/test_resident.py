from collections.abc import Sequence

import numpy as np
import pytest

from semievol.errors import DataError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.resident import BLOCK, ExampleTable, ResidentExampleIndex, ResidentExamples
from semievol.protocols import Vectors
from semievol.types import Example, Query
from tests.example_index_contract import EXAMPLES, ExampleIndexContract

DIMENSIONS = 48


def example(identity: str, answer: str = "x") -> Example:
    return Example(Query(identity, identity), answer)


def unit_vectors(count: int) -> np.ndarray:
    vectors = np.random.default_rng(count).standard_normal((count, DIMENSIONS), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def table_of(vectors: np.ndarray) -> ExampleTable:
    resident = ResidentExamples(DIMENSIONS)
    resident.put([example(f"{place:03}") for place in range(len(vectors))], vectors)
    return resident.table()


def test_the_nearest_are_those_of_a_full_sort() -> None:
    vectors, asked = unit_vectors(200), unit_vectors(7)
    similarities = asked @ vectors.T
    for found, row in zip(table_of(vectors).nearest(asked, 5), similarities, strict=True):
        assert [each.example.id for each in found] == [f"{place:03}" for place in np.argsort(-row)[:5]]
        assert [each.similarity for each in found] == pytest.approx(np.sort(row)[::-1][:5].tolist(), abs=1e-6)


def test_equals_are_taken_by_id_also_where_the_number_asked_for_cuts_through_them() -> None:
    vectors = np.repeat(unit_vectors(1), 33, axis=0)
    resident = ResidentExamples(DIMENSIONS)
    resident.put([example(f"{place:03}") for place in reversed(range(33))], vectors)
    found = resident.table().nearest(vectors[:1], 10)[0]
    assert [each.example.id for each in found] == [f"{place:03}" for place in range(10)]
    assert len({each.similarity for each in found}) == 1


def test_what_is_found_does_not_depend_on_what_is_asked_beside_it() -> None:
    table, asked = table_of(unit_vectors(101)), unit_vectors(32)
    together = table.nearest(asked, 4)
    assert [table.nearest(vector[None], 4)[0] for vector in asked] == together
    assert [row for start in range(0, 32, 5) for row in table.nearest(asked[start : start + 5], 4)] == together


def test_no_similarity_is_above_one() -> None:
    vectors = unit_vectors(300)
    assert all(found[0].similarity <= 1.0 for found in table_of(vectors).nearest(vectors, 1))


def test_nothing_is_missed_where_a_matrix_product_orders_what_is_nearly_equal_otherwise() -> None:
    """Vectors that differ in their last bits: the products round them into another order than their dot products."""
    rng = np.random.default_rng(0)
    base = unit_vectors(1)[0]
    vectors = np.stack([base + rng.standard_normal(DIMENSIONS).astype(np.float32) * 3e-8 for _ in range(3000)])
    asked = unit_vectors(9)
    asked[0] = base
    for found, vector in zip(table_of(vectors).nearest(asked, 7), asked, strict=True):
        similarities = np.vecdot(vectors, vector)
        expected = sorted(range(3000), key=lambda place: (-similarities[place], f"{place:03}"))[:7]
        assert [each.example.id for each in found] == [f"{place:03}" for place in expected]


def test_more_vectors_than_a_product_takes_are_each_answered() -> None:
    table, asked = table_of(unit_vectors(1500)), unit_vectors(150)
    assert len(table.blocks) == 2
    together = table.nearest(asked, 2)
    assert len(together) == 150
    assert table.nearest(asked[140:141], 2)[0] == together[140]


def test_a_table_keeps_what_it_was_made_of_and_the_next_one_has_the_changes() -> None:
    resident = ResidentExamples(DIMENSIONS)
    assert resident.table().nearest(unit_vectors(2), 3) == [[], []]
    vectors = unit_vectors(3)
    resident.put([example("a"), example("b")], vectors[:2])
    before = resident.table()
    resident.put([example("b", "corrected"), example("c")], vectors[1:])
    resident.remove(["a", "unknown"])
    [(examples, _)] = before.blocks
    assert [each.id for each in examples] == ["a", "b"]
    assert resident.ids() == {"b", "c"}
    [(examples, held)] = resident.table().blocks
    assert examples == (example("b", "corrected"), example("c"))
    assert np.array_equal(held, vectors[1:])


def test_blocks_hold_exactly_what_was_put_and_not_removed_whatever_came_between() -> None:
    rng = np.random.default_rng(1)
    resident, expected = ResidentExamples(4), dict[str, tuple[Example, np.ndarray]]()
    for _ in range(60):
        ids = [f"e{number}" for number in rng.integers(0, 4000, size=300)]
        if rng.random() < 0.4:
            resident.remove(ids)
            for identity in ids:
                expected.pop(identity, None)
        else:
            vectors = rng.standard_normal((len(ids), 4)).astype(np.float32)
            examples = [example(identity, str(rng.random())) for identity in ids]
            resident.put(examples, vectors)
            expected.update((each.id, (each, vector)) for each, vector in zip(examples, vectors, strict=True))
    blocks = resident.table().blocks
    held = {each.id: (each, row) for examples, rows in blocks for each, row in zip(examples, rows, strict=True)}
    assert sum(len(examples) for examples, _ in blocks) == len(held) == len(expected)
    assert all(held[identity][0] is each for identity, (each, _) in expected.items())
    assert all(np.array_equal(held[identity][1], vector) for identity, (_, vector) in expected.items())
    assert resident.ids() == expected.keys()
    assert all(0 < len(examples) <= BLOCK for examples, _ in blocks)


class TestResident(ExampleIndexContract):
    """The contract, in memory."""

    @pytest.fixture
    def index(self) -> ResidentExampleIndex:
        return ResidentExampleIndex(HashingEmbedder(64))


def test_vectors_that_are_kept_are_not_made_again() -> None:
    class Kept(dict[str, np.ndarray]):
        def of(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
            return {each.id: self[each.id] for each in examples if each.id in self}

        def keep(self, examples: Sequence[Example], vectors: np.ndarray) -> None:
            self.update((each.id, vector) for each, vector in zip(examples, vectors, strict=True))

    kept = Kept()
    first = ResidentExampleIndex(HashingEmbedder(64), kept)
    first.upsert(EXAMPLES[:2])
    second = ResidentExampleIndex(HashingEmbedder(64), kept)
    second.upsert(EXAMPLES)
    assert (first.embedded, second.embedded, set(kept)) == (2, 1, {"card", "pin", "sum"})
    first.upsert(EXAMPLES)
    assert first.embedded == 2
    asked = ["is 2 more than 1", "where is my card"]
    assert first.neighbours(asked, 3) == second.neighbours(asked, 3)


def test_an_example_that_the_embedder_refuses_is_named() -> None:
    class Short(HashingEmbedder):
        def embed(self, texts: Sequence[str]) -> Vectors:
            if any(len(text) > 50 for text in texts):
                raise DataError("embedding: refuses a text")
            return super().embed(texts)

    index = ResidentExampleIndex(Short(64))
    long = Example(Query("long", "long" * 20), "x")
    with pytest.raises(DataError, match=r"^example 'long': embedding: refuses a text$"):
        index.upsert([*EXAMPLES, long, *(example(f"e{n}") for n in range(9))])
