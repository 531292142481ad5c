"""BM25 over examples."""

from semievol.examples.lexical import Bm25ExampleIndex
from semievol.types import Example, Query

EXAMPLES = [
    Example(Query("e1", "how do I pay my credit card bill"), "pay bill"),
    Example(Query("e2", "what is the weather in Paris"), "weather"),
    Example(Query("e3", "pay the rent"), "rent"),
]


def test_the_example_that_shares_rare_words_comes_first() -> None:
    index = Bm25ExampleIndex(EXAMPLES)
    found = index.neighbours(["is it going to rain: weather please", "pay my bill"], 2)
    assert [row[0].example.id for row in found] == ["e2", "e1"]
    assert all(row[0].similarity > row[1].similarity >= 0 for row in found)


def test_fewer_examples_than_asked_for_and_questions_without_a_known_word() -> None:
    index = Bm25ExampleIndex(EXAMPLES)
    assert len(index.neighbours(["pay"], 10)[0]) == 3
    assert [each.example.id for each in index.neighbours(["zzz"], 2)[0]] == ["e1", "e2"]
    assert [each.example.id for each in index.neighbours(["?!"], 1)[0]] == ["e1"]


def test_examples_without_a_word() -> None:
    index = Bm25ExampleIndex([Example(Query("e1", "?"), "a"), Example(Query("e2", "x"), "b")])
    assert [each.example.id for each in index.neighbours(["pay"], 2)[0]] == ["e1", "e2"]


def test_examples_come_and_go() -> None:
    index = Bm25ExampleIndex()
    assert index.neighbours(["pay"], 2) == [[]]
    index.upsert(EXAMPLES)
    index.delete(["e1", "unknown"])
    assert index.ids() == {"e2", "e3"}
    assert index.neighbours(["pay my bill"], 1)[0][0].example.id == "e3"
