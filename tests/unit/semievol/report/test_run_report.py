"""`semievol report` on run directories that the real writers fabricate; the expected numbers are counted by hand."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from semievol.commands import cli
from semievol.commands.report import ReportFiles, run_report
from semievol.config.method import (
    Configuration,
    LabellingConfig,
    MethodConfig,
    ModelConfig,
    SelectionConfig,
    TaskConfig,
)
from semievol.errors import DataError
from semievol.labelling.confidence import confidence
from semievol.proof.gate import GateResult
from semievol.recipe import select_labels
from semievol.report import answer_figures as report_answer_figures
from semievol.report import figures as report_figures
from semievol.report import label_figures as report_label_figures
from semievol.report.data import ReportData
from semievol.report.measures import coverage
from semievol.report.run_report import report_of
from semievol.report.stored_run import read_run
from semievol.runs.directory import RoundResult, RunDirectory
from semievol.teaching import make_training_job
from semievol.training.job import write_snapshot
from semievol.types import CandidateAnswer, Example, Message, Outcome, PseudoLabel, Query, TrainingRow

CONFIG = MethodConfig(
    task=TaskConfig(labels=("a", "b")),
    model=ModelConfig(name="m"),
    labelling=LabellingConfig(configurations=(Configuration(name="s", samples=3, neighbours=1),)),
    selection=SelectionConfig(theta=0.5, min_agreement=0.5),
)
WARM, EVOLVED = "r0001-aaaaaaaa", "r0002-bbbbbbbb"
EXAMPLES = (Example(Query("e0", "known question"), "a"),)
HOLDOUT = (Example(Query("h0", "held"), "a"), Example(Query("h1", "held"), "b"))
# id: the three candidate answers, the entropy of each, and the truth
POOL: dict[str, tuple[str, tuple[float, ...], str]] = {
    "q0": ("aaa", (0.1, 0.1, 0.1), "a"),  # right, surest
    "q1": ("bbb", (0.2, 0.2, 0.2), "b"),  # right
    "q2": ("aab", (0.3, 0.3, 0.3), "b"),  # wrong
    "q3": ("bba", (0.4, 0.4, 0.4), "b"),  # right
    "q4": ("---", (math.inf,) * 3, "a"),  # never parsed
}


def label(query_id: str) -> PseudoLabel:
    texts, entropies, _ = POOL[query_id]
    answers = [None if text == "-" else text for text in texts]
    answer = answers[0]
    share = answers.count(answer) / 3 if answer else 0.0
    return PseudoLabel(
        query=Query(query_id, f"question {query_id}", category="c"),
        answer=answer,
        entropy=entropies[0],
        agreement=share,
        confidence=confidence(entropies[0], share),
        justified=False,
        adapter=WARM,
        neighbours=(("e0", 0.5), ("gone", 0.25)),
        candidates=tuple(
            CandidateAnswer("s", text, given, nats) for text, given, nats in zip(texts, answers, entropies, strict=True)
        ),
    )


def outcomes(prefix: str, expected: str, answered: str, entropy: float) -> list[Outcome]:
    """One outcome a letter, in categories x and y by turns; `-` did not parse."""
    return [
        Outcome(f"{prefix}{n}", true, None if given == "-" else given, true == given, entropy, "xy"[n % 2])
        for n, (true, given) in enumerate(zip(expected, answered, strict=True))
    ]


def fabricate(path: Path, *, finished: bool = True, tested: bool = True) -> RunDirectory:
    run = RunDirectory(path)
    run.claim(CONFIG, EXAMPLES, HOLDOUT, [label(query_id).query for query_id in POOL])
    warm = run.round(1)
    row = TrainingRow("e0", (Message("user", "known question"),), "a", "example")
    write_snapshot(warm.snapshot, make_training_job(CONFIG, [row], number=1, kind="warm", parent=None), [row])
    warm.write_outcomes(outcomes("h", "ab", "bb", 0.7), outcomes("h", "ab", "ab", 0.2))
    gate = GateResult("promote", "better", 2, 1, 0, 0.5, 1.0, 0.5, 1.0)
    warm.write_result(RoundResult(1, "warm", None, WARM, 0, 0, None, 1, gate, {"train": 10.0, "evaluate": 2.0}))
    manifest = {"name": WARM, "content_hash": "x", "base_model": "m", "files": {}, "parent": None}
    manifest |= {"round_number": 1, "seed": 0, "training": {"steps": 5, "first_loss": 2.0, "last_loss": 0.5}}
    (run.adapters / WARM).mkdir(parents=True)
    (run.adapters / WARM / "manifest.json").write_text(json.dumps(manifest))

    labels = [label(query_id) for query_id in POOL]
    evolve = run.round(2)
    evolve.write_pseudo_labels(labels, select_labels(labels, CONFIG))
    if finished:
        evolve.write_outcomes(outcomes("h", "ab", "ab", 0.2), outcomes("h", "ab", "a-", 0.1))
        gate = GateResult("inconclusive", "no difference", 2, 0, 1, 1.0, 0.5, 1.0, 0.5)
        seconds = {"label": 3.0, "train": 4.0, "evaluate": 1.0}
        evolve.write_result(RoundResult(2, "evolve", WARM, EVOLVED, 5, 2, 0.2, 3, gate, seconds))
    if tested:
        run.write_test_outcomes(None, outcomes("t", "abab", "bbba", 0.9))
        run.write_test_outcomes(WARM, outcomes("t", "abab", "abaa", math.inf))
        if finished:
            run.write_test_outcomes(EVOLVED, outcomes("t", "abab", "abab", 0.05))
    return run


def truth() -> dict[str, str]:
    return {query_id: true for query_id, (_, _, true) in POOL.items()}


def gather(path: Path, known: dict[str, str] | None = None) -> ReportData:
    return report_of(read_run(path), truth() if known is None else known)


def write_answers(path: Path, answers: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps({"id": key, "answer": value}) + "\n" for key, value in answers.items()))
    return path


def make_tables(tmp_path: Path, **given: Any) -> dict[str, list[dict[str, str]]]:
    """Run the command on a finished run; every table as rows by column."""
    fabricate(tmp_path / "run")
    answers = write_answers(tmp_path / "answers.jsonl", truth())
    run_report(ReportFiles(run=tmp_path / "run", answers=answers, **given))
    paths = (tmp_path / "run" / "report").iterdir()
    return {path.name: list(csv.DictReader(path.read_text().splitlines())) for path in paths}


# --- tables -----------------------------------------------------------------------------------------------------------


def test_there_is_a_table_for_everything_that_is_drawn(tmp_path: Path) -> None:
    found = make_tables(tmp_path)
    names = ["accuracy", "calibration", "categories", "coverage", "n", "pseudo_labels", "rounds", "theta"]
    assert sorted(found) == [f"{name}.csv" for name in names]
    assert all(found.values())


def test_rounds_are_told_with_their_selection_and_scores(tmp_path: Path) -> None:
    warm, evolve = make_tables(tmp_path)["rounds.csv"]
    assert (warm["state"], warm["holdout_before"], warm["holdout_after"]) == ("promoted", "0.5", "1.0")
    assert (warm["test_before"], warm["test_after"], warm["training_s"]) == ("0.25", "0.75", "10.0")
    assert (warm["first_loss"], warm["last_loss"], warm["pool"], warm["threshold"]) == ("2.0", "0.5", "0", "")
    assert (evolve["state"], evolve["pool"], evolve["selected"], evolve["selected_precision"]) == (
        "inconclusive",
        "5",
        "2",
        "1.0",
    )
    assert (evolve["test_before"], evolve["test_after"]) == ("0.75", "1.0")


def test_every_pseudo_label_is_listed_with_truth_and_fate(tmp_path: Path) -> None:
    rows = {row["id"]: row for row in make_tables(tmp_path)["pseudo_labels.csv"]}
    assert list(rows) == list(POOL)
    assert (rows["q0"]["answer"], rows["q0"]["truth"], rows["q0"]["selected"], rows["q0"]["reason"]) == (
        "a",
        "a",
        "true",
        "",
    )
    assert (rows["q2"]["answer"], rows["q2"]["truth"], rows["q2"]["reason"]) == ("a", "b", "entropy above threshold")
    assert float(rows["q2"]["agreement"]) == pytest.approx(2 / 3)
    assert (rows["q4"]["answer"], rows["q4"]["entropy"], rows["q4"]["reason"]) == ("", "inf", "unparseable")


def test_accuracies_come_with_wilson_intervals(tmp_path: Path) -> None:
    rows = {(row["adapter"], row["set"]): row for row in make_tables(tmp_path)["accuracy.csv"]}
    assert {key: (row["correct"], row["total"]) for key, row in rows.items()} == {
        ("base", "test"): ("1", "4"),
        (WARM, "test"): ("3", "4"),
        (EVOLVED, "test"): ("4", "4"),
        ("base", "holdout"): ("1", "2"),
        (WARM, "holdout"): ("2", "2"),
        (EVOLVED, "holdout"): ("1", "2"),
    }
    # Wilson, 3 of 4, z = 1.96: centre (3 + 1.9208) / 7.8416, spread 1.96 sqrt(0.75 + 0.9604) / 7.8416
    low, high = float(rows[WARM, "test"]["low"]), float(rows[WARM, "test"]["high"])
    assert (low, high) == (pytest.approx(0.300641, abs=1e-5), pytest.approx(0.954413, abs=1e-5))


def test_categories_are_counted_for_every_adapter(tmp_path: Path) -> None:
    rows = make_tables(tmp_path)["categories.csv"]
    found = {(row["adapter"], row["category"]): (row["correct"], row["total"]) for row in rows if row["set"] == "test"}
    # x are the first and third question, y the second and fourth
    assert found["base", "x"] == ("0", "2")
    assert found["base", "y"] == ("1", "2")
    assert found[WARM, "x"] == ("2", "2")
    assert found[WARM, "y"] == ("1", "2")


def test_calibration_is_counted_in_bins(tmp_path: Path) -> None:
    rows = make_tables(tmp_path)["calibration.csv"]
    labels = [row for row in rows if row["set"] == "pseudo-labels"]
    # exp(-0.1), exp(-0.2), exp(-0.3) * 2/3, exp(-0.4) * 2/3, and 0 for the one without an answer
    assert [(float(row["low"]), row["count"], float(row["accuracy"])) for row in labels] == [
        (0.0, "1", 0.0),
        (0.4, "2", 0.5),
        (0.8, "1", 1.0),
        (0.9, "1", 1.0),
    ]
    middle = (math.exp(-0.3) + math.exp(-0.4)) / 3
    expected = (0 + 2 * abs(middle - 0.5) + (1 - math.exp(-0.2)) + (1 - math.exp(-0.1))) / 5
    assert float(labels[0]["expected_calibration_error"]) == pytest.approx(expected)
    (base,) = [row for row in rows if (row["of"], row["set"]) == ("base", "test")]
    assert float(base["confidence"]) == pytest.approx(math.exp(-0.9))
    assert float(base["expected_calibration_error"]) == pytest.approx(math.exp(-0.9) - 0.25)
    (warm,) = [row for row in rows if (row["of"], row["set"]) == (WARM, "test")]
    assert (float(warm["confidence"]), float(warm["accuracy"])) == (0.0, 0.75)


def test_coverage_takes_the_surest_first(tmp_path: Path) -> None:
    rows = make_tables(tmp_path)["coverage.csv"]
    assert [(row["kept"], row["correct"]) for row in rows] == [
        ("1", "1"),
        ("2", "2"),
        ("3", "2"),
        ("4", "3"),
        ("5", "3"),
    ]
    assert [float(row["precision"]) for row in rows] == pytest.approx([1, 1, 2 / 3, 3 / 4, 3 / 5])
    assert (rows[-1]["ranked_by"], rows[-1]["uncertainty"]) == ("entropy", "inf")


def test_coverage_and_the_threshold_are_those_of_what_selection_ranked_by(tmp_path: Path) -> None:
    settings = CONFIG.model_copy(update={"selection": SelectionConfig(by="agreement", theta=0.5)})
    run = RunDirectory(tmp_path / "run")
    labels = [label(query_id) for query_id in POOL]
    run.claim(settings, EXAMPLES, HOLDOUT, [each.query for each in labels])
    selection = select_labels(labels, settings)
    run.round(2).write_pseudo_labels(labels, selection)
    gate = GateResult("inconclusive", "no difference", 2, 0, 1, 1.0, 0.5, 1.0, 0.5)
    run.round(2).write_result(RoundResult(2, "evolve", WARM, EVOLVED, 5, 2, selection.threshold, 3, gate, {}))
    data = gather(tmp_path / "run")
    assert data.ranked_by == "agreement"
    assert data.rounds[-1].threshold is not None
    # Equal agreement stands together: q0 and q1 (3 of 3), then q2 and q3 (2 of 3), then what never parsed.
    assert [(point.kept, point.correct) for point in coverage(data.pool)] == [(2, 2), (4, 3), (5, 3)]
    figure = report_label_figures.entropy_of_selection(data)
    assert "Selection ranked by agreement" in figure.caption
    assert "threshold" not in figure.svg
    by_entropy = report_label_figures.entropy_of_selection(replace(data, ranked_by="entropy"))
    assert "threshold" in by_entropy.svg


def test_theta_tells_what_would_have_been_selected(tmp_path: Path) -> None:
    rows = {float(row["theta"]): row for row in make_tables(tmp_path)["theta.csv"]}
    assert len(rows) == 20
    assert [theta for theta, row in rows.items() if row["used"] == "true"] == [0.5]
    # of the four with a finite entropy
    assert {theta: (rows[theta]["selected"], rows[theta]["correct"]) for theta in (0.25, 0.5, 0.75, 1.0)} == {
        0.25: ("1", "1"),
        0.5: ("2", "2"),
        0.75: ("3", "2"),
        1.0: ("4", "3"),
    }
    assert (rows[0.75]["threshold"], rows[0.75]["pool"]) == ("0.3", "5")


def test_n_tells_what_fewer_candidate_answers_would_have_given(tmp_path: Path) -> None:
    rows = make_tables(tmp_path)["n.csv"]
    # the first answer decides q0 to q3 at every n; at n = 3 one of three differs for q2 and q3; q4 never parses
    assert [(row["n"], row["parsed"], row["correct"], row["known"]) for row in rows] == [
        ("1", "4", "3", "5"),
        ("2", "4", "3", "5"),
        ("3", "4", "3", "5"),
    ]
    assert [float(row["agreement"]) for row in rows] == pytest.approx([0.8, 0.8, (1 + 1 + 2 / 3 + 2 / 3) / 5])
    assert [(row["selected"], row["selected_correct"]) for row in rows] == [("2", "2")] * 3


def test_a_truth_that_is_not_known_is_not_counted_as_wrong(tmp_path: Path) -> None:
    fabricate(tmp_path)
    data = gather(tmp_path, {"q0": "b", "q3": "b"})
    assert (data.rounds[1].selected_precision, data.rounds[1].selected_known) == (0.0, 1)
    assert [p.correct for p in data.pool] == [False, None, None, True, None]
    assert [p.right and (p.right.correct, p.right.total) for p in data.theta if p.theta in (0.5, 1.0)] == [
        (0, 1),
        (1, 2),
    ]
    assert "The truth is known of 2 of 5 queries; the others count nowhere." in data.notes


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_of_a_finished_run_has_every_figure(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    points = [
        {"parameter": name, "value": value, "accuracy": {"correct": 7 + value, "total": 10}}
        for name in ("n", "theta", "ratio")
        for value in (0, 1, 2)
    ]
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(points))
    make_tables(tmp_path, sweep=tmp_path / "sweep")
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    data = report_of(read_run(tmp_path / "run", tmp_path / "sweep"), truth())
    drawn = report_figures.figures(data)
    assert [figure.name for figure in drawn if figure.svg is None] == []
    assert {"sweep-n", "sweep-theta", "sweep-ratio", "theta", "n", "precision", "reliability-answers"} <= {
        figure.name for figure in drawn
    }
    assert all(f'<figure id="{figure.name}">' in page for figure in drawn)
    assert "<h2>Swaps</h2>" not in page
    assert len((tmp_path / "run" / "report" / "sweep.csv").read_text().splitlines()) == 10


def test_before_is_the_warm_adapter_only_where_another_one_serves(tmp_path: Path) -> None:
    fabricate(tmp_path)
    data = gather(tmp_path)
    assert data.comparison == "Test set; before: base; after: warm."
    assert [(c.category, c.before.accuracy, c.after.accuracy) for c in data.categories] == [
        ("x", 0.0, 1.0),
        ("y", 0.5, 0.5),
    ]
    assert [(c.expected, c.answer, c.before, c.after) for c in data.confusions] == [("b", "a", 1, 1)]


def test_neighbours_are_shown_with_the_text_that_was_trained_on(tmp_path: Path) -> None:
    fabricate(tmp_path)
    first = gather(tmp_path).explanations[0]
    assert [(n.id, n.question, n.answer) for n in first.neighbours] == [
        ("e0", "known question", "a"),
        ("gone", "(not among the examples trained on)", ""),
    ]
    assert (first.id, first.selected, first.truth) == ("q0", True, "a")


def test_answers_are_drawn_of_the_evolved_adapter_that_was_promoted_last(tmp_path: Path) -> None:
    fabricate(tmp_path)
    data = gather(tmp_path)

    def drawn(data: ReportData) -> list[str]:
        return [label.split(":")[0] for _, label in report_answer_figures.reliability_of_answers(data).legend]

    assert drawn(data) == ["base", "warm", "round 2 (not promoted)"]
    better = replace(data.evaluated[2], name="round 3", adapter="r3")
    rounds = (*data.rounds, replace(data.rounds[1], number=3, state="promoted", adapter="r3"))
    again = replace(data, rounds=rounds, evaluated=(*data.evaluated[:2], better, *data.evaluated[2:]))
    assert drawn(again) == ["base", "warm", "round 3"]


def test_without_a_test_set_the_holdout_is_drawn_and_said_so(tmp_path: Path) -> None:
    fabricate(tmp_path, tested=False)
    data = gather(tmp_path)
    assert data.comparison.startswith("Holdout;")
    drawn = {figure.name: figure for figure in report_figures.figures(data)}
    assert drawn["entropy-answers"].title == "Entropy of answers to the holdout"
    assert drawn["entropy-answers"].svg is not None
    assert any(note.startswith("No answers to a test set were kept") for note in data.notes)


def test_test_accuracies_without_answers_count_once_the_size_of_the_set_is_given(tmp_path: Path) -> None:
    fabricate(tmp_path, tested=False)
    (tmp_path / "summary.json").write_text(json.dumps({"test": {"base": {"accuracy": 0.25}, WARM: {"accuracy": 0.75}}}))
    run = read_run(tmp_path)
    assert [e.score.total for e in report_of(run, {}).evaluated if e.examples == "test"] == []
    assert [e.score.correct for e in report_of(run, {}, 4).evaluated if e.examples == "test"] == [1, 3]


# --- runs that are not whole ------------------------------------------------------------------------------------------


def test_an_unfinished_run_shows_what_there_is(tmp_path: Path) -> None:
    fabricate(tmp_path, finished=False)
    before = sorted(tmp_path.rglob("*"))
    data = gather(tmp_path)
    assert (data.rounds[1].state, data.rounds[1].pool, data.rounds[1].selected) == ("unfinished", 5, 2)
    assert "5 queries labelled, not trained" in str(data.rounds[1].reason)
    assert "The run is not finished; this is what there is." in data.notes
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_has_only_begun_makes_a_page(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run").claim(CONFIG, EXAMPLES, HOLDOUT, [])
    run_report(ReportFiles(run=tmp_path / "run", out=tmp_path / "page.html", tables=tmp_path / "tables"))
    assert "No round has run yet." in (tmp_path / "page.html").read_text("utf-8")
    assert (tmp_path / "tables" / "theta.csv").read_text().startswith("round,theta,")


@pytest.mark.parametrize(
    "name",
    [
        "summary.json",
        "sweep.json",
        "round-0001/round.json",
        "round-0001/outcomes.jsonl",
        "round-0001/snapshot/job.json",
        "round-0002/outcomes.jsonl",
        "round-0002/round.json",
        f"adapters/{WARM}/manifest.json",
        "test/base.jsonl",
        f"test/{WARM}.jsonl",
    ],
)
@pytest.mark.parametrize("damage", ["{", "[1]", "\xff", '{"id": "x"}', '{"id": "x", "role": "candidate"}'])
def test_a_damaged_part_is_left_out_and_named(tmp_path: Path, name: str, damage: str) -> None:
    fabricate(tmp_path / "run")
    (tmp_path / "run" / name).write_text(damage, encoding="latin-1")
    run = read_run(tmp_path / "run")
    unharmed = name == "summary.json" and damage.startswith('{"id"')  # an object is all that is asked of it
    assert unharmed or any(name in problem for problem in run.problems), run.problems
    report_of(run, truth())


def test_a_run_of_which_everything_is_damaged_still_makes_a_page(tmp_path: Path) -> None:
    run = fabricate(tmp_path)
    for path in run.path.rglob("*.json*"):
        if path.name != "run.json":
            path.write_text("{")
    summary = run_report(ReportFiles(run=tmp_path))
    assert len(summary["notes"]) >= 7


def test_pseudo_labels_that_cannot_be_read_are_named_with_their_line(tmp_path: Path) -> None:
    run = fabricate(tmp_path)
    with (run.path / "round-0002" / "pseudo_labels.jsonl").open("a") as file:
        file.write('{"id": "q9", "question": "?"}\n')
    data = gather(tmp_path)
    assert data.pool == ()
    assert any("pseudo_labels.jsonl:6: is not a pseudo-label" in note for note in data.notes)


@pytest.mark.parametrize("part", ["round-0001", "round-0002", "adapters", "test", "round-0001/snapshot"])
def test_a_part_that_is_missing_is_no_error(tmp_path: Path, part: str) -> None:
    fabricate(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / part)
    run_report(ReportFiles(run=tmp_path / "run"))


def test_settings_that_cannot_be_read_cost_only_what_follows_from_them(tmp_path: Path) -> None:
    run = fabricate(tmp_path)
    (run.path / "run.json").write_text(json.dumps({"config": {"selection": {"thta": 1}, "task": 3}}))
    data = gather(tmp_path)
    assert data.theta == ()
    assert len(data.pool) == 5
    assert any("run.json: field 'config.selection.thta'" in note for note in data.notes)
    with pytest.raises(DataError, match=r"run.json: field 'config.task': cannot be read, and --answers needs it"):
        run_report(ReportFiles(run=tmp_path, answers=write_answers(tmp_path / "a.jsonl", truth())))


def test_numbers_that_are_none_are_the_least_sure(tmp_path: Path) -> None:
    run = fabricate(tmp_path)
    path = run.path / "round-0002" / "pseudo_labels.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= {"entropy": math.nan, "confidence": math.nan}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = gather(tmp_path)
    assert (data.pool[0].entropy, data.pool[0].confidence) == (math.inf, 0.0)
    for figure in report_figures.figures(data):
        assert "nan" not in (figure.svg or ""), figure.name


def test_stored_outcomes_are_read_back_as_they_were(tmp_path: Path) -> None:
    run = fabricate(tmp_path)
    given = [replace(each, entropy=math.inf) for each in outcomes("t", "ab", "-b", 0.5)]
    run.write_test_outcomes("some", given)
    assert run.test_outcomes("some") == given
    assert run.test_outcomes("other") is None


def test_the_loss_of_every_step_is_taken_from_the_log_of_the_training(tmp_path: Path) -> None:
    work = fabricate(tmp_path).round(1).work
    work.mkdir()
    steps = [(1, 3.0), (2, 2.0), (2, 2.5), (3, 1.0)]  # killed after step 2, which was done again
    lines = [json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in steps]
    (work / "losses.jsonl").write_text("".join(lines) + '{"step": 4, "lo')
    assert gather(tmp_path).rounds[0].losses == ((1, 3.0), (2, 2.5), (3, 1.0))


# --- refusals and the command line ------------------------------------------------------------------------------------


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a run directory .*; give the directory that `semievol evolve --out`"):
        run_report(ReportFiles(run=tmp_path))


def test_answers_of_other_queries_are_refused(tmp_path: Path) -> None:
    fabricate(tmp_path / "run")
    answers = write_answers(tmp_path / "answers.jsonl", {"z9": "a"})
    with pytest.raises(DataError, match=r"answers.jsonl: field 'id': holds none of the 5 ids .*'q0'"):
        run_report(ReportFiles(run=tmp_path / "run", answers=answers))


def test_another_test_set_is_refused(tmp_path: Path) -> None:
    fabricate(tmp_path / "run")
    rows = [{"id": f"t{n}", "question": "?", "answer": "a"} for n in range(5)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"test.jsonl: field 'id': is not what .*base.jsonl answers: 1 ids .*'t4'"):
        run_report(ReportFiles(run=tmp_path / "run", test=tmp_path / "test.jsonl"))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:4]))
    with pytest.raises(DataError, match=r"test.jsonl: field 'answer': of id 't1' is not what .*base.jsonl was"):
        run_report(ReportFiles(run=tmp_path / "run", test=tmp_path / "test.jsonl"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"sweep.json: cannot be read .*; give the directory that holds sweep.json"),
        ('[{"parameter": "n", "accuracy": {"correct": 1, "total": 2}}]', r"sweep.json: is not a sweep: 0.value"),
        ('[{"parameter": "n", "value": 1, "accuracy": {"correct": 3, "total": 2}}]', "0 <= correct <= total"),
    ],
)
def test_an_unusable_sweep_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    fabricate(tmp_path / "run")
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(DataError, match=message):
        run_report(ReportFiles(run=tmp_path / "run", sweep=tmp_path))


def test_the_command_writes_page_and_tables(tmp_path: Path) -> None:
    fabricate(tmp_path / "run")
    answers = write_answers(tmp_path / "answers.jsonl", truth())
    places = ["--out", str(tmp_path / "page.html"), "--tables", str(tmp_path / "csv")]
    given = ["report", str(tmp_path / "run"), "--answers", str(answers), *places, "-o", "json"]
    result = CliRunner().invoke(cli.app, given)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.output)
    assert (summary["rounds"], summary["pseudo_labels"], len(summary["tables"])) == (2, 5, 8)
    assert "<svg" in (tmp_path / "page.html").read_text("utf-8")
    assert not (tmp_path / "run" / "report").exists()
