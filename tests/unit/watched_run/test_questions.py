"""What is left of an alert without its bounds: all that has to have data for it ever to be true."""

from __future__ import annotations

import pytest

from tests.watched_run.questions import without_bounds


@pytest.mark.parametrize(
    ("expr", "questions"),
    [
        ("max by (w) (frozen) == 1", ["max by (w) (frozen)"]),
        ("time() - max(a) > 3 * 86400", ["time() - max(a)"]),
        ('a{b="c == 1 or d > 2"} < 0.1', ['a{b="c == 1 or d > 2"}']),
        ("a > 14.4 * 0.005 and on (w) sum by (w) (b) >= 10", ["a and on (w) sum by (w) (b)"]),
        ("a == 1 or b == 0", ["b", "a"]),
        ("(a > 1 or b > 2) and c > 3", ["(b) and c", "(a) and c"]),
        ("max by (w, r) (a == 0 unless on (w) b == 1)", ["max by (w, r) (a)", "max by (w, r) (b)"]),
        ("a unless on (w) (max by (w) (b) == 1)", ["a", "(max by (w) (b))"]),
        ('a{b!="c"} == 1', ['a{b!="c"}']),
        ('label_replace(a == 1, "x", "y", "", "") > 0', ['label_replace(a, "x", "y", "", "")']),
    ],
)
def test_the_comparisons_are_off_and_each_side_is_asked(expr: str, questions: list[str]) -> None:
    assert without_bounds(expr) == questions


@pytest.mark.parametrize("expr", ["a > b", "a == on (w) group_left b"])
def test_a_bound_that_is_no_number_is_refused(expr: str) -> None:
    with pytest.raises(ValueError, match="something else than a number"):
        without_bounds(expr)
