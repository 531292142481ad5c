import json
from pathlib import Path

import pytest

from semievol.config.method import TaskConfig
from semievol.examples.truth import true_answers
from semievol.proof.evaluation import precision
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.types import PseudoLabel, Query


def label(query_id: str, answer: str | None) -> PseudoLabel:
    return PseudoLabel(Query(query_id, "?"), answer, 0.1, 1.0, 0.9, False, None, (), ())


def test_precision_takes_any_true_answer_in_any_spelling(tmp_path: Path) -> None:
    task = Task(TaskConfig(form="numeric"))
    rows = [
        {"id": "a", "answer": "12.5%"},
        {"id": "b", "answer": 7, "answers": [1000]},
        {"id": "c", "answer": 5},
        {"id": "d", "answer": 5},
        {"id": "unasked", "answer": 5},
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    truth = true_answers(tmp_path / "answers.jsonl", [Query(each, "?") for each in "abcde"], task)
    assert {key: example.answers for key, example in truth.items()} == {
        "a": ("12.5%",),
        "b": ("7", "1000"),
        "c": ("5",),
        "d": ("5",),
    }
    labels = [label("a", "0.125"), label("b", "1001"), label("c", "6"), label("d", None), label("e", "5")]
    assert precision(labels, truth, AnswerEquality(task)) == pytest.approx(0.5)
    assert precision(labels[4:], truth, AnswerEquality(task)) is None
