from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from semievol.errors import DataError
from semievol.report import figures as report_figures
from semievol.report import label_figures as report_label_figures
from semievol.report.data import (
    Answered,
    Candidate,
    CategoryScore,
    Confusion,
    Evaluated,
    Explanation,
    PoolPoint,
    ProgressPoint,
    ReportData,
    RoundReport,
    Score,
    ShownNeighbour,
    Swap,
    SweepPoint,
    ThetaPoint,
    VotePoint,
    headline,
)
from semievol.report.page import render, write

HOSTILE = '<script>alert("x")</script>'


def full_report() -> ReportData:
    warm = RoundReport(
        1,
        "warm",
        "settled",
        adapter="a-1",
        decision="promote",
        p_better=1e-9,
        wins=30,
        losses_to_incumbent=0,
        holdout_before=Score(0, 50),
        holdout_after=Score(30, 50),
        test_before=Score(1, 100),
        test_after=Score(60, 100),
        training_s=40.0,
        losses=((1, 3.0), (2, 1.0)),
        started_s=0.0,
        ended_s=50.0,
    )
    evolve = RoundReport(
        2,
        "evolve",
        "settled",
        adapter="a-2",
        holdout_before=Score(30, 50),
        holdout_after=Score(40, 50),
        test_before=Score(60, 100),
        test_after=Score(75, 100),
        pool=4,
        selected=2,
        selected_correct=2,
        threshold=0.2,
        losses=((1, 2.0), (2, float("nan"))),
    )
    refused = RoundReport(
        3,
        "evolve",
        "inconclusive",
        reason=HOSTILE,
        holdout_before=Score(40, 50),
        holdout_after=Score(41, 50),
        test_before=Score(75, 100),
        test_after=Score(76, 100),
    )
    return ReportData(
        title=HOSTILE,
        facts={"model": HOSTILE, "seed": 7},
        rounds=(warm, evolve, refused),
        pool=(
            PoolPoint(2, 0.1, 0.9, True, True),
            PoolPoint(2, 0.2, 0.8, True, True),
            PoolPoint(2, 0.9, 0.3, False, False),
            PoolPoint(2, float("inf"), 0.0, False, False),
        ),
        categories=(CategoryScore(HOSTILE, Score(1, 4), Score(3, 4)),),
        confusions=(Confusion(HOSTILE, None, 3, 1),),
        swaps=(Swap(50.0, "a-1", None, HOSTILE, 20, 0),),
        progress=(ProgressPoint(60.0, 4),),
        explanations=(
            Explanation(
                HOSTILE,
                HOSTILE,
                HOSTILE,
                float("inf"),
                0.5,
                False,
                "a-1",
                truth="x",
                neighbours=(ShownNeighbour("n", HOSTILE, HOSTILE, 0.5),),
                candidates=(Candidate(HOSTILE, HOSTILE, None, float("inf")),),
            ),
        ),
        notes=(HOSTILE,),
        evaluated=(
            Evaluated(
                HOSTILE,
                None,
                "test",
                Score(1, 3),
                (Answered(0.1, True, HOSTILE), Answered(float("inf"), False), Answered(float("nan"), False)),
            ),
        ),
        theta=(ThetaPoint(2, 0.5, 0.2, 2, 4, Score(2, 2), used=True), ThetaPoint(2, 1.0, float("inf"), 4, 4)),
        votes=(VotePoint(2, 1, 1.0, 4, 4, Score(2, 4), 2, Score(2, 2)), VotePoint(2, 2, 0.5, 4, 4)),
        sweep=(SweepPoint("n", 4.0, Score(3, 4)), SweepPoint(HOSTILE, 0.5, Score(0, 0))),
        comparison=HOSTILE,
    )


def test_text_from_outside_never_becomes_markup() -> None:
    assert "<script" not in render(full_report())
    page = render(ReportData("a\u202eb\x1b[2J\u2028<b>c"))
    assert "a\\u202eb\\u001b[2J\\u2028&lt;b&gt;c" in page
    assert not {"\u202e", "\x1b", "\u2028"} & set(page)


def test_page_needs_nothing_from_outside() -> None:
    page = render(full_report())
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://""", page)


def test_an_empty_report_says_what_is_missing_in_the_place_of_every_figure() -> None:
    figures = report_figures.figures(ReportData("nothing yet"))
    assert all(figure.svg is None and figure.note for figure in figures)
    assert "No round has run yet." in render(ReportData("nothing yet"))


def test_every_figure_of_a_full_report_is_well_formed_svg_with_numbers_only() -> None:
    for figure in report_figures.figures(full_report()):
        assert figure.svg is not None, figure.name
        ElementTree.fromstring(figure.svg)
        assert not re.search(r"\b(nan|inf)\b", figure.svg), figure.name


def test_figures_stand_data_without_any_spread() -> None:
    data = ReportData(
        "flat",
        rounds=(RoundReport(1, "warm", "settled", test_after=Score(1, 1), losses=((0, 0.0),), threshold=0.0),),
        pool=(PoolPoint(1, 0.0, 1.0, True, True),),
        categories=(CategoryScore("one", Score(0, 0), Score(0, 0)),),
        progress=(ProgressPoint(0.0, 0),),
        evaluated=(Evaluated("base", None, "holdout", Score(0, 1), (Answered(0.0, False),)),),
        theta=(ThetaPoint(1, 1.0, 0.0, 1, 1, Score(1, 1), used=True),),
        votes=(VotePoint(1, 1, 1.0, 1, 1, Score(1, 1)),),
        sweep=(SweepPoint("ratio", 0.0, Score(1, 1)), SweepPoint("ratio", 0.0, Score(1, 1))),
    )
    for figure in report_figures.figures(data):
        assert figure.svg is not None, figure.name
        ElementTree.fromstring(figure.svg)


def test_a_report_survives_json_even_with_infinite_entropy() -> None:
    data = full_report()
    again = ReportData.from_json(data.to_json())
    assert again.explanations == data.explanations
    assert again.pool == data.pool
    assert (again.theta, again.votes, again.sweep) == (data.theta, data.votes, data.sweep)
    assert again.evaluated[0].answers[:2] == data.evaluated[0].answers[:2]


def test_json_that_is_no_report_is_refused_with_the_field_named() -> None:
    with pytest.raises(DataError, match=r"rounds\.0\.number"):
        ReportData.from_json('{"title": "x", "rounds": [{"kind": "warm", "state": "settled"}]}')


def test_headline_leaves_rounds_out_that_were_not_promoted() -> None:
    found = headline(full_report())
    assert found is not None
    assert (found.first.correct, found.warm, found.last.correct) == (1, Score(60, 100), 75)
    assert found.gain == pytest.approx(0.15)
    assert (found.promoted, found.refused) == (2, 1)


def test_precision_curve_ends_at_the_precision_of_the_whole_pool() -> None:
    figure = report_label_figures.precision_against_coverage(full_report())
    assert figure.legend[0][1] == "round 2: 100 % right at 50 % kept"


def test_interval_of_a_score_holds_the_accuracy_and_stays_within_bounds() -> None:
    for correct, total in ((0, 10), (10, 10), (3, 7), (0, 0)):
        low, high = Score(correct, total).interval()
        assert 0 <= low <= Score(correct, total).accuracy <= high + 1e-12 <= 1 + 1e-12


def test_report_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    write(ReportData("first"), path)
    write(ReportData("second"), path)
    assert "<h1>second</h1>" in path.read_text("utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
