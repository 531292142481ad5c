"""What counts as a reason that somebody can read who did not write the code."""

from __future__ import annotations

import pytest

from tests.scenarios.table import unreadable

READ = [
    "category 'wrong item' drops from 0.760 to 0.000 (25 examples)",
    "0 held-out examples, fewer than gate.min_holdout (20): label more; gate.patience_s (60 s) is over",
    "frozen (too many copies: 92 % of 400 queries); rounds go on after `semievol thaw`",
]


@pytest.mark.parametrize("reason", READ)
def test_a_sentence_with_a_figure_can_be_read(reason: str) -> None:
    assert unreadable(reason) is None


@pytest.mark.parametrize(
    ("reason", "fault"),
    [
        ("", "no figure"),
        ("the candidate is worse than what serves", "no figure"),
        ("worse: 3 of 9", "no sentence"),
        ("AssertionError: 3 of the 9 pairs were worse than before", "'AssertionError' is a word of the code"),
        ("the candidate has max_slice_drop of 3 in all of them", "'max_slice_drop' is a word of the code"),
        ("it is worse than None by 3 of all the labels", "'None' is a word of the code"),
    ],
)
def test_words_of_the_code_and_bare_verdicts_cannot(reason: str, fault: str) -> None:
    assert unreadable(reason) == fault
