import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config.method import TaskConfig
from semievol.errors import DataError
from semievol.tasks.task import Task
from semievol.tasks.text import normalised, token_f1
from semievol.types import Query

SHORT = Task(TaskConfig(form="short_answer"))
FREE = Task(TaskConfig(form="free_form"))
QUERY = Query("q", "who scored?")

# --- short answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Tom  Brady", "Tom Brady"),
        ("Tom Brady\nHe threw it.", "Tom Brady"),
        ("Answer: Tom Brady", "Tom Brady"),
        ("He threw for 80 yards.\nThe answer is: Tom Brady\nSo he did.", "Tom Brady"),
        ("", None),
        ("Answer:", None),
    ],
)
def test_a_short_answer_is_one_line_behind_the_last_mark(text: str, answer: str | None) -> None:
    assert SHORT.parse(text, QUERY) == answer


def test_a_short_answer_that_was_cut_at_the_token_limit_is_none() -> None:
    assert SHORT.parse("Tom Bra", QUERY, truncated=True) is None
    assert SHORT.parse("Tom Brady\nHe thr", QUERY, truncated=True) == "Tom Brady"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The Patriots", "patriots", True),
        ("Tom Brady.", '"tom brady"', True),
        ("a touchdown", "touchdown", True),
        ("26-yard line", "26 yard line", True),
        ("three", "3", True),
        ("twenty", "20.0", True),
        ("1,000", "1000", True),
        ("$1,000", "1000.00", True),
        ("0.50", "0.5", True),
        ("-5", "5", False),
        ("1.5", "15", False),
        ("Brady, Tom", "Tom Brady", False),
        ("Brady", "Tom Brady", False),
        ("The", "A", False),
        ("The The", "the the!", True),
        ("?", "!", False),
        ("caf\u00e9", "cafe", False),
        ("\uff11\uff12", "12", True),
    ],
)
def test_short_answers_are_compared_in_their_normal_form(one: str, other: str, same: bool) -> None:
    assert SHORT.same(one, other) is same
    assert SHORT.same(other, one) is same


@given(st.text())
def test_the_completion_of_a_canonical_short_answer_is_read_as_that_answer(answer: str) -> None:
    try:
        canonical = SHORT.canonical(answer, QUERY)
    except DataError:
        return
    assert SHORT.canonical(canonical, QUERY) == canonical
    assert SHORT.parse(SHORT.completion(canonical), QUERY) == canonical
    assert SHORT.same(canonical, canonical)


@given(st.lists(st.sampled_from(["the", "A", "Tom", "three", "3", "yard-line", "don't", "1,000"]), min_size=1))
def test_a_normal_form_is_its_own_normal_form(words: list[str]) -> None:
    assert normalised(normalised(" ".join(words))) == normalised(" ".join(words))


def test_overlap_of_words_is_the_best_over_all_true_answers() -> None:
    assert token_f1("the Tom Brady", ["Tom Brady"]) == 1.0
    assert token_f1("Tom Brady", ["Brady", "Manning"]) == pytest.approx(2 / 3)
    assert token_f1("Tom", ["Brady"]) == 0.0
    assert token_f1(None, ["Brady"]) == 0.0
    assert token_f1("Tom", []) == 0.0


# --- free-form answers ----------------------------------------------------------------------------------------------


def test_a_free_form_answer_is_the_whole_text() -> None:
    assert FREE.parse("  First.\r\n\r\nSecond: x \n", QUERY) == "First.\n\nSecond: x"
    assert FREE.parse("Answer: First.\nSecond.", QUERY) == "First.\nSecond."
    assert FREE.parse(" \n", QUERY) is None
    assert FREE.parse("First.\nSeco", QUERY, truncated=True) is None


def test_free_form_answers_have_room_unless_it_is_set() -> None:
    assert FREE.config.max_answer_tokens == 256
    assert TaskConfig(form="free_form", max_answer_tokens=40).max_answer_tokens == 40
    assert TaskConfig().max_answer_tokens == 16


@given(st.text())
def test_the_completion_of_a_canonical_free_form_answer_is_read_as_that_answer(answer: str) -> None:
    try:
        canonical = FREE.canonical(answer, QUERY)
    except DataError:
        return
    assert FREE.canonical(canonical, QUERY) == canonical
    assert FREE.parse(FREE.completion(canonical), QUERY) == canonical


def test_empty_answers_are_refused() -> None:
    for task in (SHORT, FREE):
        with pytest.raises(DataError, match="field 'answer': is empty"):
            task.canonical(" Answer: ", QUERY)
