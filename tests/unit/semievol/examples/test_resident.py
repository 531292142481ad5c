import numpy as np
import pytest

from semievol.examples.resident import ExampleTable, ResidentExamples
from semievol.types import Example, Query

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


def test_a_table_keeps_what_it_was_made_of_and_the_next_one_has_the_changes() -> None:
    resident = ResidentExamples(DIMENSIONS)
    assert resident.table().nearest(unit_vectors(2), 3) == [[], []]
    vectors = unit_vectors(3)
    resident.put([example("a"), example("b")], vectors[:2])
    before = resident.table()
    resident.put([example("b", "corrected"), example("c")], vectors[1:])
    resident.remove(["a", "unknown"])
    assert [each.id for each in before.examples] == ["a", "b"]
    assert resident.ids() == {"b", "c"}
    assert resident.table().examples == (example("b", "corrected"), example("c"))
    assert np.array_equal(resident.table().vectors, vectors[1:])
    assert resident.table() is resident.table()
