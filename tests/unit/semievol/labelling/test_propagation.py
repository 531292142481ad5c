import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config.method import Configuration, TaskConfig, TrainingConfig
from semievol.errors import ConfigError
from semievol.labelling.propagation import arrange, retrieve, training_rows
from semievol.tasks.task import Task
from semievol.types import Example, Neighbour, PseudoLabel, Query
from tests.scripted import ListIndex

TASK = Task(TaskConfig())
EXAMPLES = [Example(Query(f"e{i}", f"question {i}"), f"answer {i}") for i in range(5)]
NEIGHBOURS = [Neighbour(example, 0.9 - 0.1 * rank) for rank, example in enumerate(EXAMPLES)]


def pseudo_label(query_id: str, answer: str | None = "guess") -> PseudoLabel:
    return PseudoLabel(Query(query_id, f"asked {query_id}"), answer, 0.1, 1.0, 0.9, False, None, (), ())


def configuration(**settings: object) -> Configuration:
    return Configuration.model_validate({"name": "c", **settings})


# --- in-context -----------------------------------------------------------------------------------------------------


def test_the_nearest_examples_are_retrieved_once_for_all_queries() -> None:
    index = ListIndex(EXAMPLES)
    found = retrieve(index, [Query("a", "x"), Query("b", "y")], 2)
    assert [[n.example.id for n in row] for row in found] == [["e0", "e1"], ["e0", "e1"]]
    assert index.asked == [(("x", "y"), 3)]


def test_a_query_is_never_its_own_neighbour() -> None:
    found = retrieve(ListIndex(EXAMPLES), [Query("e1", "question 1")], 2)
    assert [n.example.id for n in found[0]] == ["e0", "e2"]
    assert "e1" not in [e.id for e in arrange(NEIGHBOURS, configuration(neighbours=5), Query("e1", "x"), 0)]


def test_closed_book_needs_no_index() -> None:
    assert retrieve(None, [Query("a", "x")], 0) == [[]]
    with pytest.raises(ConfigError, match="need an example index"):
        retrieve(None, [Query("a", "x")], 1)


@pytest.mark.parametrize(
    ("order", "ids"), [("nearest_first", ["e0", "e1", "e2"]), ("nearest_last", ["e2", "e1", "e0"])]
)
def test_the_order_of_the_prompt_is_configured(order: str, ids: list[str]) -> None:
    shown = arrange(NEIGHBOURS, configuration(neighbours=3, order=order), Query("q", "x"), 0)
    assert [example.id for example in shown] == ids


@given(st.integers(0, 2**60), st.text(), st.integers(0, 5))
def test_a_shuffled_order_is_drawn_from_the_seed_and_shows_the_nearest(seed: int, query_id: str, count: int) -> None:
    shuffled = configuration(neighbours=count, order="shuffled")
    shown = arrange(NEIGHBOURS, shuffled, Query(query_id, "x"), seed)
    assert {example.id for example in shown} == {f"e{i}" for i in range(count)}
    assert shown == arrange(NEIGHBOURS, shuffled, Query(query_id, "x"), seed)


def test_different_queries_are_shuffled_differently() -> None:
    shuffled = configuration(neighbours=5, order="shuffled")
    orders = {tuple(e.id for e in arrange(NEIGHBOURS, shuffled, Query(str(i), "x"), 0)) for i in range(20)}
    assert len(orders) > 10


# --- in-weight ------------------------------------------------------------------------------------------------------


def test_examples_and_pseudo_labels_become_rows() -> None:
    rows = {row.id: row for row in training_rows(EXAMPLES, [pseudo_label("q")], TASK, TrainingConfig(), 0)}
    assert sorted(rows) == ["e0", "e1", "e2", "e3", "e4", "q"]
    assert (rows["q"].kind, rows["q"].completion, rows["q"].messages[0].content) == ("pseudo-label", "guess", "asked q")
    assert (rows["e0"].kind, rows["e0"].completion) == ("example", "answer 0")


def test_without_an_example_there_is_nothing_to_train_on() -> None:
    with pytest.raises(ValueError, match="examples are always in the mix"):
        training_rows([], [pseudo_label("q")], TASK, TrainingConfig(), 0)
    with pytest.raises(ValueError, match="examples are always in the mix"):
        training_rows(EXAMPLES[:1], [pseudo_label("q")], TASK, TrainingConfig(), 0, holdout=EXAMPLES[:1])


def test_a_pseudo_label_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="'q' has no answer"):
        training_rows(EXAMPLES, [pseudo_label("q", None)], TASK, TrainingConfig(), 0)


def test_a_true_label_replaces_the_pseudo_label_of_the_same_query() -> None:
    rows = training_rows(EXAMPLES, [pseudo_label("e3")], TASK, TrainingConfig(), 0)
    assert sorted((row.id, row.kind) for row in rows) == [(f"e{i}", "example") for i in range(5)]


def test_a_held_out_id_is_trained_on_neither_as_example_nor_as_pseudo_label() -> None:
    held_out = [Example(Query("h", "something else"), "a"), EXAMPLES[0]]
    rows = training_rows(EXAMPLES, [pseudo_label("h"), pseudo_label("q")], TASK, TrainingConfig(), 0, holdout=held_out)
    assert sorted(row.id for row in rows) == ["e1", "e2", "e3", "e4", "q"]


def test_what_a_held_out_example_asks_is_trained_on_under_no_other_id() -> None:
    held_out = [Example(Query("h1", "  QUESTION 1"), "a"), Example(Query("h2", "Asked q"), "a")]
    rows = training_rows(EXAMPLES, [pseudo_label("q"), pseudo_label("r")], TASK, TrainingConfig(), 0, holdout=held_out)
    assert sorted(row.id for row in rows) == ["e0", "e2", "e3", "e4", "r"]


def test_examples_are_repeated_only_beside_pseudo_labels() -> None:
    config = TrainingConfig(example_repeats=3)
    assert len(training_rows(EXAMPLES, [], TASK, config, 0)) == 5
    rows = training_rows(EXAMPLES, [pseudo_label("q")], TASK, config, 0)
    assert sorted(row.id for row in rows if row.completion == "answer 0") == ["e0", "e0#2", "e0#3"]
    assert len(rows) == 16


def test_the_order_of_the_rows_is_drawn_from_the_seed() -> None:
    def order(seed: int) -> list[str]:
        return [row.id for row in training_rows(EXAMPLES, [pseudo_label("q")], TASK, TrainingConfig(), seed)]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_open_book_copies_stand_beside_the_closed_book_rows_and_never_show_the_row_itself() -> None:
    config = TrainingConfig(neighbours_in_prompt=2, example_repeats=2)
    index = ListIndex(EXAMPLES)
    rows = {row.id: row for row in training_rows(EXAMPLES, [pseudo_label("q")], TASK, config, 0, index=index)}
    assert len(rows) == 10 + 1 + 6
    assert [m.content for m in rows["e0"].messages] == ["question 0"]
    assert [m.content for m in rows["e0@neighbours"].messages] == [
        *("question 2", "answer 2", "question 1", "answer 1"),
        "question 0",
    ]
    assert [m.content for m in rows["q@neighbours"].messages][::2] == ["question 1", "question 0", "asked q"]
    assert (rows["q@neighbours"].completion, rows["q@neighbours"].kind) == ("guess", "pseudo-label")


def test_an_example_that_the_index_still_holds_and_that_is_none_any_more_is_not_shown() -> None:
    config = TrainingConfig(neighbours_in_prompt=2, open_book_share=1.0)
    rows = training_rows(EXAMPLES[:2], [], TASK, config, 0, index=ListIndex(EXAMPLES))
    assert len(rows) == 4
    assert {message.content for row in rows for message in row.messages if message.role == "user"} == {
        "question 0",
        "question 1",
    }


def test_only_the_configured_share_has_an_open_book_copy() -> None:
    config = TrainingConfig(neighbours_in_prompt=1, open_book_share=0.25)
    examples = [Example(Query(str(i), f"question {i}"), "x") for i in range(400)]

    def copies(seed: int) -> set[str]:
        rows = training_rows(examples, [], TASK, config, seed, index=ListIndex(examples))
        return {row.id for row in rows if row.id.endswith("@neighbours")}

    assert 70 < len(copies(1)) < 130
    assert copies(1) == copies(1) != copies(2)


def test_open_book_copies_need_an_index() -> None:
    with pytest.raises(ConfigError, match="needs an example index"):
        training_rows(EXAMPLES, [], TASK, TrainingConfig(neighbours_in_prompt=2), 0)


def test_a_row_whose_question_the_embedder_refuses_is_trained_on_without_neighbours() -> None:
    config = TrainingConfig(neighbours_in_prompt=2, open_book_share=1.0)
    index = ListIndex(EXAMPLES, refuses="question 3")
    rows = training_rows(EXAMPLES, [], TASK, config, 0, index=index)
    ids = {row.id for row in rows}
    assert ids == {f"e{n}" for n in range(5)} | {f"e{n}@neighbours" for n in (0, 1, 2, 4)}
