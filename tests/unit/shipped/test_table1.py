"""`bench/table1.py`: what its table says of finished rows, and by which rule a data set is compared."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[3] / "bench"
ABOUT = {"A": "money back please refund", "B": "parcel late delivery where", "C": "password forgotten login reset"}


@pytest.fixture
def table1(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    import table1 as module

    yield module
    for name in ("table1", "parts.table1_settings", "parts"):
        sys.modules.pop(name, None)


def finished(out: Path, row: str, right: int, of: int = 10, form: str = "closed_book") -> None:
    """A row whose adapter answered so many questions rightly."""
    directory = out / "fpb" / "seed-0" / row
    directory.mkdir(parents=True)
    outcomes = [json.dumps({"id": f"t{n}", "correct": n < right}) + "\n" for n in range(of)]
    (directory / "outcomes.jsonl").write_text("".join(outcomes))
    stage = {"stage": "round 2", form: right / of, f"{form}_outcomes": "outcomes.jsonl"}
    if row == "semievol":
        numbers = {"epochs": 3.0, "learning_rate": 8.5e-4, "batch_size": 8, "rank": 16, "alpha": 32}
        stage |= {"training": numbers, "theta": 0.5, "selected": 4, "precision": 0.9, "selected_precision": 1.0}
    (directory / "result.json").write_text(json.dumps({"name": row, "stages": [stage]}))


def data_set(directory: Path, answers: str) -> None:
    """Questions with the options x, y and z."""
    directory.mkdir(parents=True)
    for name in ("labeled", "unlabeled", "test"):
        rows: list[dict[str, Any]] = [
            {
                "id": f"{name[0]}{n}",
                "question": f"{ABOUT[answer]} {name} {n}",
                "options": ["xx", "yy", "zz"],
                "answer": answer,
            }
            for n, answer in enumerate(answers)
        ]
        if name == "unlabeled":
            rows = [{key: value for key, value in row.items() if key != "answer"} for row in rows]
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def written(table1: Any, tmp_path: Path) -> tuple[dict[str, Any], str]:
    given = argparse.Namespace(
        data=tmp_path / "data",
        out=tmp_path / "out",
        model=Path("model"),
        seeds="0",
        rounds=1,
        part=0,
        per_answer=None,
        threads=1,
        why={"fpb": "the reason"},
    )
    config = table1.MethodConfig.model_validate(
        {
            "model": {"name": "model"},
            "task": {"form": "multiple_choice", "answer_as": "text", "labels": ["xx", "yy", "zz"]},
        }
    )
    summary = table1.write(given, {"fpb": config}, table1.options_of(given))
    return summary, (tmp_path / "out" / "table1.md").read_text()


def test_a_table_in_part_has_the_rows_that_are_finished_beside_the_paper(
    table1: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_set(tmp_path / "data" / "fpb", "AAAAAABBCC")
    finished(tmp_path / "out", "vanilla", 2)
    finished(tmp_path / "out", "rag_bm25", 3, form="open_book")
    finished(tmp_path / "out", "sft", 6)
    summary, text = written(table1, tmp_path)
    assert "SemiEvol |" not in text.split("error reduction")[0]
    assert "| RAG (BM25) | 30.0 [" in text
    finished(tmp_path / "out", "semievol", 8)
    summary, text = written(table1, tmp_path)
    assert "| the same over SFT | 50 % |" in text
    assert "| SemiEvol, error reduction over vanilla | 75 % |" in text
    assert "| paper, Llama-3.1-8B over vanilla | 83 % |" in text
    assert "| paper, Llama-3.1-8B over SFT | 18 % |" in text
    assert (
        "Round 2: 3 epochs at 0.00085; theta 0.5 took 4; right of all pseudo-labels and of those 90.0 and 100.0 %"
        in text
    )
    assert table1.judged(summary)
    assert capsys.readouterr().out.endswith("1 of 1 judged\n")


def test_a_claim_whose_rows_are_not_there_does_not_hold(
    table1: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_set(tmp_path / "data" / "fpb", "AAAAAABBCC")
    finished(tmp_path / "out", "vanilla", 2)
    summary, _ = written(table1, tmp_path)
    assert not table1.judged(summary)
    assert capsys.readouterr().out == "0 of 1 judged\n"


def test_a_model_that_does_no_better_than_the_most_frequent_answer_is_said_to_know_nothing(
    table1: Any, tmp_path: Path
) -> None:
    data_set(tmp_path / "data" / "fpb", "AAAAAABBCC")
    for row, right in (("sft", 6), ("semievol", 7)):
        finished(tmp_path / "out", row, right)
    _, text = written(table1, tmp_path)
    assert "| always the most frequent answer | 60.0 |" in text
    assert "The model knows nothing" in text
    finished(tmp_path / "out", "fully_labelled", 10)
    assert "The model knows nothing" not in written(table1, tmp_path)[1]


def test_near_questions_correct_each_other_where_centres_know_held_out_examples(
    table1: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from parts import table1_settings  # type: ignore[import-not-found]

    monkeypatch.setattr(table1_settings, "EMBEDDING", {"kind": "hashing", "dimensions": 64})
    data_set(tmp_path / "near", "ABC" * 10)
    config, why = table1_settings.settings(tmp_path / "near", {"name": "model"})
    assert config.task.labels == ("xx", "yy", "zz")
    assert (config.selection.by, config.selection.theta, config.training.epochs) == ("consensus", "auto", "auto")
    assert why.startswith("of held-out examples centres name ")
    # Questions that say nothing of their answers: each is of its own options.
    rows = [
        {"id": f"q{n}", "question": "which?", "options": [f"a{n}x", f"b{n}x"], "answer": "AB"[n % 2]} for n in range(8)
    ]
    (tmp_path / "near" / "labeled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config, why = table1_settings.settings(tmp_path / "near", {"name": "model"})
    assert (config.selection.by, config.labelling.consensus) == ("votes", None)
    assert "options differ" in why
    assert config.task.answer_index == 1
