"""`semievol init`: a configuration that loads, in both programs, and under which every example is valid."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol.commands.init import DEFAULT_MODEL, run_init, workload_name
from semievol.config.data import DataConfig
from semievol.config.file import load_config
from semievol.errors import ConfigError, DataError
from semievol.examples.files import read_examples
from semievol.tasks.task import Task
from semievold.config.daemon import DaemonConfig


def made(
    tmp_path: Path, *rows: dict[str, Any], data: DataConfig | None = None, **options: Any
) -> tuple[dict[str, Any], DaemonConfig]:
    """What the command says, and what it wrote, as the daemon reads it."""
    source = tmp_path / "My Examples.v2.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = run_init(str(source), tmp_path / "semievol.yaml", data or DataConfig(), **options)
    config = load_config(DaemonConfig, tmp_path / "semievol.yaml", {})
    assert len(read_examples(source, Task(config.task), config.data)) == said["examples"] == len(rows)
    assert not list(tmp_path.glob(".*"))
    return said, config


def test_labels_are_the_answers_in_their_most_frequent_spelling(tmp_path: Path) -> None:
    answers = ["no", "Refund", "refund", "refund", "a: b", "# c", "[/INST]", "12", "null"]
    said, config = made(tmp_path, *({"text": f"q{n}", "label": answer} for n, answer in enumerate(answers)))
    assert config.task.form == "classification"
    assert config.task.labels == ("no", "refund", "a: b", "# c", "[/INST]", "12", "null")
    assert (said["form"], said["labels"]) == ("classification", 7)
    assert (config.model.name, config.workload.name) == (DEFAULT_MODEL, "my-examples")
    text = (tmp_path / "semievol.yaml").read_text()
    assert "# The file is read as text and label: question = text, answer = label, ids by content" in text


def test_the_next_three_commands_are_said(tmp_path: Path) -> None:
    said, _ = made(tmp_path, {"question": "x", "answer": "y"}, model="some/model")
    config = tmp_path / "semievol.yaml"
    assert said["next"] == [
        f"semievol doctor -c {config}",
        f"semievold run -c {config}",
        f"semievol labels import '{tmp_path / 'My Examples.v2.jsonl'}' -c {config}",
    ]


@pytest.mark.parametrize(
    ("answers", "form"),
    [
        (["1.5", "$3,000", "12 %", "7"], "numeric"),
        (["0", "1"] * 4, "classification"),
        ([f"name {n}" for n in range(30)], "short_answer"),
        (["Yes, it does, as long as nobody asks twice about the same thing."] * 2 + ["No\nnever"], "free_form"),
    ],
)
def test_the_form_is_told_by_the_answers(tmp_path: Path, answers: list[str], form: str) -> None:
    _, config = made(tmp_path, *({"id": n, "question": f"q{n}", "answer": each} for n, each in enumerate(answers)))
    assert config.task.form == form


@pytest.mark.parametrize(("answers", "index"), [([0, 1], 0), ([1, 3], 1), (["A", "C"], None)])
def test_where_options_are_counted_from_is_told_by_the_numbers(
    tmp_path: Path, answers: list[Any], index: int | None
) -> None:
    rows = [{"question": f"q{n}", "options": ["x", "y", "z"], "answer": answer} for n, answer in enumerate(answers)]
    _, config = made(tmp_path, *rows)
    assert (config.task.form, config.task.answer_index) == ("multiple_choice", index)


@pytest.mark.parametrize(("answers", "found"), [([0, 3], "both 0 and"), ([1, 2], "neither 0 nor")])
def test_what_can_be_counted_in_two_ways_is_asked_for(tmp_path: Path, answers: list[int], found: str) -> None:
    rows = [{"question": f"q{n}", "options": ["x", "y", "z"], "answer": answer} for n, answer in enumerate(answers)]
    with pytest.raises(ConfigError, match=f"{found} the number of options .*say with --answer-index"):
        made(tmp_path, *rows)
    assert not (tmp_path / "semievol.yaml").exists()
    if answers == [1, 2]:
        assert made(tmp_path, *rows, answer_index=0)[1].task.answer_index == 0


def test_columns_are_written_down(tmp_path: Path) -> None:
    data = DataConfig(columns={"question": "utterance: one", "answer": "intent"})
    _, config = made(tmp_path, *({"utterance: one": each, "intent": each} for each in "xy"), data=data)
    assert config.data == data


def test_an_existing_configuration_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "semievol.yaml").write_text("mine: 1")
    with pytest.raises(ConfigError, match=r"semievol.yaml: is there already, and is not overwritten"):
        made(tmp_path, {"question": "x", "answer": "y"})
    assert (tmp_path / "semievol.yaml").read_text() == "mine: 1"


def test_a_file_that_holds_no_valid_examples_leaves_nothing_behind(tmp_path: Path) -> None:
    wrong = [{"question": "x", "answer": "y"}, {"question": "z"}]
    for rows, message in (([], "holds no example"), (wrong, "v2.jsonl:2: field 'answer': missing")):
        with pytest.raises(DataError, match=message):
            made(tmp_path, *rows)
        assert [path.name for path in tmp_path.iterdir()] == ["My Examples.v2.jsonl"]


@pytest.mark.parametrize(
    ("name", "workload"),
    [("hub:org/clinc_oos:train", "clinc-oos"), ("a/ü.jsonl", "workload"), ("Mails 2026.csv.gz", "mails-2026")],
)
def test_the_workload_has_a_name_that_it_may_have(name: str, workload: str) -> None:
    assert workload_name(name) == workload


def test_on_the_command_line_it_says_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("text;label\nwhere is my parcel;delivery\nrefund me;refund\n")
    command = [sys.executable, "-m", "semievol.commands.cli", "init", "e.csv", "--model", "m"]
    environment = {"PATH": "/usr/bin", "PYTHONPATH": f"{Path.cwd()}:{Path.cwd() / 'daemon'}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "wrote semievol.yaml: classification, 2 labels, 2 examples. Next:",
        "  semievol doctor",
        "  semievold run",
        "  semievol labels import e.csv",
    ]
    assert done.stderr.startswith("e.csv: read as text and label: question = text, answer = label, ids by content; sep")
    assert yaml.safe_load((tmp_path / "semievol.yaml").read_text())["task"]["labels"] == ["delivery", "refund"]


@pytest.mark.parametrize("module", ["semievol", "semievold"])
def test_the_version_is_said(module: str) -> None:
    command = [sys.executable, "-m", f"{module}.commands.cli", "--version"]
    environment = {"PATH": "/usr/bin", "PYTHONPATH": f"{Path.cwd()}:{Path.cwd() / 'daemon'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[0] == "semievol"
    assert done.stdout.split()[1][0].isdigit()


def test_training_fits_the_model_and_the_number_of_examples(tmp_path: Path) -> None:
    rows = [{"question": f"q{number}", "answer": "ab"[number % 2]} for number in range(40)]
    _, config = made(tmp_path, *rows, model="HuggingFaceTB/SmolLM2-135M-Instruct")
    assert (config.training.epochs, config.training.learning_rate, config.selection.theta) == ("auto", "auto", "auto")
    text = (tmp_path / "semievol.yaml").read_text()
    assert re.search(
        r"# these examples alone, 40 rows of at most \d+ tokens and 2 answers, a model of 135 million", text
    )
    assert "# 9.5 epochs at 0.00085, batches of 8, rank 16. Each can be set instead:" in text


def test_options_that_all_examples_share_become_labels_and_answers_words(tmp_path: Path) -> None:
    rows = [
        {"question": f"How is {number}?", "options": ["down", "level", "up"], "answer": "ABC"[number % 3]}
        for number in range(6)
    ]
    _, config = made(tmp_path, *rows)
    assert (config.task.answer_as, config.task.labels) == ("text", ("down", "level", "up"))
    source = tmp_path / "My Examples.v2.jsonl"
    assert [each.answer for each in read_examples(source, Task(config.task))] == ["down", "level", "up"] * 2


def test_what_can_be_read_only_once_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="is no plain file"):
        run_init(str(tmp_path / "a.jsonl"), tmp_path / "semievol.yaml", DataConfig())


def test_choices_make_a_multiple_choice_and_not_a_numeric_task(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "choices": [f"no {n}", f"yes {n}"], "answer": n % 2} for n in range(4)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_init(str(tmp_path / "a.jsonl"), tmp_path / "semievol.yaml", DataConfig())
    task = yaml.safe_load((tmp_path / "semievol.yaml").read_text())["task"]
    assert task == {"form": "multiple_choice", "answer_index": 0}
