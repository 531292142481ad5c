from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config.method import TaskConfig
from semievol.errors import DataError
from semievol.tasks.numeric import numbers_in
from semievol.tasks.task import Task
from semievol.types import Query

TASK = Task(TaskConfig(form="numeric"))
EXACT = Task(TaskConfig(form="numeric", tolerance=0))
QUERY = Query("q", "what was the change in revenue?")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("42", "42"),
        ("-42", "-42"),
        ("\u221242", "-42"),
        ("1,234,567.50", "1234567.5"),
        ("1\u202f234", "1234"),
        ("$ 1,234", "1234"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("US$5m", "5"),
        ("EUR 37.7 mn", "37.7"),
        ("(1,234)", "-1234"),
        ("($ 5)", "-5"),
        ("(-5)", "-5"),
        ("(12.5%)", "-12.5%"),
        ("(12.5)%", "-12.5%"),
        ("(up from 5)", "5"),
        ("12.50 %", "12.5%"),
        ("12.5 percent", "12.5%"),
        ("12.5 per cent of sales", "12.5%"),
        (r"14.1\%", "14.1%"),
        ("1.5 million", "1.5"),
        ("206588 thousand dollars", "206588"),
        ("1e3", "1000"),
        ("-1.5E-3", "-0.0015"),
        ("1.5 x 10^6", "1500000"),
        (r"1.5 \times 10^{-2}", "0.015"),
        (".5", "0.5"),
        ("007", "7"),
        ("-0.00", "0"),
        ("It is 3 and then 5.", "3, 5"),
        ("5, 3", "5, 3"),
        ("1,2345", "1, 2345"),
        ("2007-2009", "2007, 2009"),
        ("3 -5", "3, -5"),
        ("in FY2008 and Q3, 7", "7"),
        ("version 1.2.3", "1.2"),
        ("206588 - 181001 = 25587", "25587"),
        ("100 / 3 \u2248 33.3 %", "33.3%"),
        ("x = y, so 5", "5"),
        ("Answer: 5", "5"),
        ("From 100 to 112.5 it rose.\nAnswer: 12.5%", "12.5%"),
        ("First answer: 3\nanswer: 5\nbecause of 7", "5"),
        ("She has 3 + 4 = 7 eggs.\n#### 7", "7"),
        ("5\nfrom 3 and 2", "5"),
        ("none", None),
        ("Answer:", None),
        ("", None),
        ("1e999", None),
        ("9" * 400, None),
    ],
)
def test_numbers_are_read_out_of_prose(text: str, answer: str | None) -> None:
    assert TASK.parse(text, QUERY) == answer


def test_a_number_on_a_line_that_was_cut_at_the_token_limit_is_no_answer() -> None:
    assert TASK.parse("Answer: 12", QUERY, truncated=True) is None
    assert TASK.parse("Answer: 12\nbecau", QUERY, truncated=True) == "12"


def test_a_true_answer_without_a_number_is_refused() -> None:
    assert TASK.canonical("$ 1,500 ", QUERY) == "1500"
    with pytest.raises(DataError, match=r"field 'answer': 'yes' holds no number; give the number as digits"):
        TASK.canonical("yes", QUERY)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("100", "101", True),
        ("100", "99", True),
        ("100", "102", False),
        ("-5", "5", False),
        ("0", "0", True),
        ("0", "0.001", False),
        ("0", "0%", True),
        ("12.5%", "12.5%", True),
        ("12.5%", "0.125", True),
        ("12.5%", "12.5", True),
        ("12.5%", "12.4", True),
        ("0.125", "12.5", False),
        ("0.125%", "12.5", False),
        ("0.5%", "0.5", False),
        ("0.5%", "0.005", True),
        ("1%", "1", False),
        ("100%", "1", True),
        ("-3%", "-3", True),
        ("-3%", "3", False),
        ("1, 2", "1, 2", True),
        ("1, 2", "2, 1", False),
        ("1, 2", "1", False),
        ("1, 12.5%", "1, 0.125", True),
    ],
)
def test_numbers_are_the_same_within_the_tolerance_and_by_the_rule_of_percent(one: str, other: str, same: bool) -> None:
    assert TASK.same(one, other) is same
    assert TASK.same(other, one) is same


def test_without_tolerance_only_equal_numbers_are_the_same() -> None:
    assert EXACT.same("0.7%", "0.007")  # as binary floats they differ
    assert not EXACT.same("100", "100.0001")


def test_what_is_no_number_is_the_same_as_nothing() -> None:
    assert not TASK.same("none", "none")


DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6)
ANSWERS = st.lists(st.tuples(DECIMALS, st.booleans()), min_size=1, max_size=4)


def written(answer: list[tuple[Decimal, bool]]) -> str:
    return ", ".join(f"{value}{'%' * percent}" for value, percent in answer)


@given(ANSWERS)
def test_the_completion_of_a_canonical_number_is_read_as_that_number(answer: list[tuple[Decimal, bool]]) -> None:
    canonical = TASK.canonical(written(answer), QUERY)
    assert TASK.canonical(canonical, QUERY) == canonical
    assert TASK.parse(TASK.completion(canonical), QUERY) == canonical
    read = numbers_in(canonical)
    assert read is not None
    assert [(number.value, number.percent) for number in read] == answer


@given(DECIMALS.filter(bool), st.floats(-0.05, 0.05).filter(lambda share: abs(abs(share) - 0.01) > 0.001))
def test_numbers_within_a_hundredth_of_the_larger_one_are_the_same(value: Decimal, share: float) -> None:
    other = value * (1 + Decimal(repr(share)))
    assert TASK.same(f"{value:f}", f"{other:f}") is (abs(share) < 0.01)


@given(DECIMALS, st.booleans(), DECIMALS, st.booleans())
def test_sameness_of_numbers_is_symmetric_and_everything_is_the_same_as_itself(
    one: Decimal, percent: bool, other: Decimal, also: bool
) -> None:
    first, second = written([(one, percent)]), written([(other, also)])
    assert TASK.same(first, first)
    assert TASK.same(first, second) is TASK.same(second, first)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=0, max_value=10**9, places=2))
def test_thousands_separators_currency_and_brackets_change_the_spelling_alone(value: Decimal) -> None:
    plain = TASK.parse(f"{value}", QUERY)
    assert TASK.parse(f"${value:,}", QUERY) == plain
    negative = TASK.parse(f"(${value:,})", QUERY)
    assert negative == (plain if not value else f"-{plain}")


@given(st.text(), st.booleans())
def test_whatever_the_model_says_an_answer_is_its_own_canonical_form(text: str, truncated: bool) -> None:
    answer = TASK.parse(text, QUERY, truncated=truncated)
    assert answer is None or TASK.canonical(answer, QUERY) == answer


@pytest.mark.parametrize("gap", ["\u00a0", "\u2009", "\u202f", ","])
def test_thousands_are_set_apart_in_an_example_as_in_an_answer(gap: str) -> None:
    text = f"1{gap}234.5"
    assert TASK.canonical(text, QUERY) == TASK.parse(text, QUERY) == "1234.5"
    assert TASK.canonical("1\n000", QUERY) == "1, 0"


@pytest.mark.parametrize("text", ["3,5", "about 12,50 EUR", "1.234,5", "1.234.567,89", "-0,1"])
def test_a_decimal_comma_in_an_example_is_refused_and_not_read_as_two_numbers(text: str) -> None:
    with pytest.raises(DataError, match="can be read in two ways"):
        TASK.canonical(text, QUERY)


@pytest.mark.parametrize("text", ["3, 5", "1,2,3", "1,234", "1,234.50", "12,345,678"])
def test_numbers_that_can_be_read_in_one_way_are_taken(text: str) -> None:
    assert TASK.canonical(text, QUERY) == TASK.parse(text, QUERY)
