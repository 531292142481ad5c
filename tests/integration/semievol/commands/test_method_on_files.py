"""The commands `semievol evolve|label|train|eval` with a tiny random model: real files, real training, no meaning."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from semievol.adapter_directory import verify
from semievol.commands.eval import run_eval
from semievol.commands.evolve import EvolveFiles, run_evolve
from semievol.commands.label import run_label
from semievol.commands.report import ReportFiles, run_report
from semievol.commands.train import run_train
from semievol.config.file import load_config
from semievol.config.method import MethodConfig, RiskConfig, SelectionConfig
from semievol.errors import AdapterError, ConfigError, DataError
from semievol.examples.files import read_examples, read_pseudo_labels
from semievol.examples.split import split_calibration
from semievol.examples.truth import true_answers
from semievol.proof.evaluation import precision
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.teaching import no_watcher
from semievol.training.job import read_snapshot
from semievol.types import Query
from tests.tiny_adapter import make_tiny_adapter
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, a configuration and data."""
    directory = tmp_path_factory.mktemp("files")
    make_tiny_model(directory / "model")
    (directory / "c.yaml").write_text(
        "embedding: {kind: hashing, dimensions: 32}\n"
        "task: {labels: [a, b], max_answer_tokens: 3}\n"
        "labelling: {configurations: [{name: greedy, temperature: 0, neighbours: 1}, {name: sampled, samples: 2}]}\n"
        "selection: {theta: 1.0, min_agreement: 0}\n"
        "training: {learning_rate: 0.01, epochs: 6, warm_epochs: 8, rank: 4, batch_size: 4, threads: 1}\n"
        "gate: {min_holdout: 5}\n"
    )
    rows = [{"id": f"e{i}", "question": f"say {'ab'[i % 2]} {i}", "answer": "ab"[i % 2]} for i in range(24)]
    write(directory / "labeled.jsonl", rows)
    queries = [{"id": f"q{i}", "question": f"say {'ab'[i % 2]} q{i}"} for i in range(8)]
    write(directory / "unlabeled.jsonl", queries)
    write(directory / "answers.jsonl", [{"id": f"q{i}", "answer": "ab"[i % 2]} for i in range(8)])
    return directory


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_evolve_leaves_a_complete_run(world: Path) -> None:
    options = ["--examples", "labeled.jsonl", "--queries", "unlabeled.jsonl", "--out", "run", "-c", "c.yaml"]
    result = subprocess.run(
        [sys.executable, "-m", "semievol.commands.cli", "evolve", *options, "--test", "labeled.jsonl", "-o", "json"],
        cwd=world,
        env={**os.environ, "SEMIEVOL__MODEL__NAME": str(world / "model"), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["examples"] + summary["holdout"] == 24
    assert [each["kind"] for each in summary["rounds"]] == ["warm", "evolve"]
    for each in summary["rounds"]:
        manifest = verify(world / "run" / "adapters" / each["adapter"])
        assert (manifest.round_number, manifest.parent) == (each["number"], None)
        assert 0 <= summary["test"][each["adapter"]]["accuracy"] <= 1
    assert len(read_pseudo_labels(world / "run" / "round-0002" / "pseudo_labels.jsonl")) == 8
    assert json.loads((world / "run" / "summary.json").read_text()) == summary
    check_report(world, summary)


def check_report(world: Path, summary: dict[str, Any]) -> None:
    """The report of that run says what the summary says."""
    files = ReportFiles(run=world / "run", test=world / "labeled.jsonl", answers=world / "answers.jsonl")
    assert run_report(files)["notes"] == []
    text = (world / "run" / "report" / "accuracy.csv").read_text()
    tested = {
        row["adapter"]: float(row["accuracy"]) for row in csv.DictReader(text.splitlines()) if row["set"] == "test"
    }
    assert tested == {name: found["accuracy"] for name, found in summary["test"].items()}
    labels = (world / "run" / "report" / "pseudo_labels.csv").read_text().splitlines()
    assert sum(row["selected"] == "true" for row in csv.DictReader(labels)) == summary["rounds"][1]["selected"]
    losses = [
        json.loads(line) for line in (world / "run" / "round-0001" / "work" / "losses.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in losses] == list(range(1, len(losses) + 1))
    page = (world / "run" / "report.html").read_text("utf-8")
    assert page.count("<svg viewBox") > page.count('class="note"')


async def test_label_train_and_eval_work_hand_in_hand(world: Path) -> None:
    config = load_config(MethodConfig, world / "c.yaml", {"SEMIEVOL__MODEL__NAME": str(world / "model")})
    examples, labels = world / "labeled.jsonl", world / "new" / "labels.jsonl"
    labelled = await run_label(config, examples, world / "unlabeled.jsonl", labels, None, no_watcher)
    assert (labelled["labelled"], labelled["adapter"]) == (8, None)
    task = Task(config.task)
    known = true_answers(world / "answers.jsonl", [label.query for label in read_pseudo_labels(labels)], task)
    assert precision(read_pseudo_labels(labels), known, AnswerEquality(task)) is not None
    trained = await run_train(config, examples, labels, world / "new", None, no_watcher)
    assert trained["rows"] == 24 + labelled["selected"]
    outcomes, adapter = world / "new" / "outcomes.jsonl", Path(trained["path"])
    evaluated = await run_eval(config, examples, adapter, examples, 2, outcomes, no_watcher)
    assert (evaluated["count"], evaluated["adapter"]) == (24, trained["adapter"])
    rows = [json.loads(line) for line in outcomes.read_text().splitlines()]
    assert sum(row["correct"] for row in rows) == pytest.approx(24 * evaluated["accuracy"])


async def test_an_adapter_says_which_numbers_a_rule_chose(world: Path) -> None:
    env = {"SEMIEVOL__MODEL__NAME": str(world / "model"), "SEMIEVOL__TRAINING__BATCH_SIZE": "auto"}
    config = load_config(MethodConfig, world / "c.yaml", env | {"SEMIEVOL__TRAINING__RANK": "auto"})
    trained = await run_train(config, world / "labeled.jsonl", None, world / "auto", None, no_watcher)
    assert (trained["training"]["batch_size"], trained["training"]["rank"]) == (8, 16)
    manifest = verify(Path(trained["path"])).training
    assert trained["training"] == {key: manifest[key] for key in trained["training"]}


def test_a_true_answer_outside_the_set_is_named_before_the_run_begins(world: Path) -> None:
    config = load_config(MethodConfig, world / "c.yaml", {"SEMIEVOL__MODEL__NAME": "none"})
    write(world / "wrong.jsonl", [{"id": "q1", "answer": "z"}])
    with pytest.raises(DataError, match=r"wrong.jsonl: id 'q1': field 'answer': 'z' is not one of the 2 labels"):
        true_answers(world / "wrong.jsonl", [Query("q0", "x"), Query("q1", "x")], Task(config.task))


async def test_configurations_answer_with_an_adapter_the_base_and_another_model(world: Path) -> None:
    adapter = make_tiny_adapter(world / "model", world / "fixed" / "adapters", seed=3)
    make_tiny_model(world / "other", seed=9)
    configurations = [
        {"name": "adapter", "temperature": 0, "neighbours": 0, "adapter": str(adapter)},
        {"name": "base", "temperature": 0, "neighbours": 0, "adapter": "base"},
        {"name": "other", "temperature": 0, "neighbours": 0, "model": "other"},
    ]
    config = load_config(MethodConfig, world / "c.yaml", {"SEMIEVOL__MODEL__NAME": str(world / "model")})
    changed = {
        "labelling": {"configurations": configurations, "justify": False},
        "models": {"other": {"kind": "local", "model": str(world / "other")}},
    }
    out = world / "mixed.jsonl"

    async def texts(settings: MethodConfig, adapter: Path | None) -> list[list[str]]:
        await run_label(settings, world / "labeled.jsonl", world / "unlabeled.jsonl", out, adapter, no_watcher)
        return [[each.text for each in label.candidates] for label in read_pseudo_labels(out)]

    mixed = await texts(MethodConfig.model_validate(config.model_dump() | changed), None)
    plain = {"configurations": [{"name": "one", "temperature": 0, "neighbours": 0}], "justify": False}
    one = MethodConfig.model_validate(config.model_dump() | {"labelling": plain})
    other = one.model_copy(update={"model": one.model.model_copy(update={"name": str(world / "other")})})
    alone = [await texts(one, adapter), await texts(one, None), await texts(other, None)]
    assert mixed == [[text for (text,) in each] for each in zip(*alone, strict=True)]
    assert len({tuple(map(tuple, each)) for each in alone}) == 3
    lost = [{"name": "adapter", "temperature": 0, "adapter": "nowhere"}]
    with pytest.raises(ConfigError, match=r"configurations\[0\]\.adapter: nowhere is no adapter directory"):
        await texts(MethodConfig.model_validate(config.model_dump() | {"labelling": {"configurations": lost}}), None)


def test_compare_trains_and_asks_every_row_and_goes_on_where_it_stopped(world: Path) -> None:
    options = ["--examples", "labeled.jsonl", "--queries", "unlabeled.jsonl", "--answers", "answers.jsonl"]
    write(
        world / "test.jsonl",
        [{"id": f"t{i}", "question": f"say {'ab'[i % 2]} {i}", "answer": "ab"[i % 2]} for i in range(8)],
    )
    options += ["--test", "test.jsonl", "--out", "compared", "-c", "c.yaml", "--rounds", "1", "--neighbours", "1"]
    options += ["--rows", "vanilla,rag_bm25,rag_dense,sft,semievol,fully_labelled", "-o", "json"]

    def compare() -> dict[str, Any]:
        result = subprocess.run(
            [sys.executable, "-m", "semievol.commands.cli", "compare", *options],
            cwd=world,
            env={**os.environ, "SEMIEVOL__MODEL__NAME": str(world / "model"), "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            timeout=580,
        )
        assert result.returncode == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    summary = compare()
    rows = {row["row"]: row for row in summary["rows"]}
    assert list(rows) == ["vanilla", "rag_bm25", "rag_dense", "sft", "semievol", "fully_labelled"]
    assert ("closed_book" in rows["rag_dense"], "open_book" in rows["vanilla"]) == (False, False)
    assert len(rows["semievol"]["closed_book"]["over_rounds"]) == 2
    trained = list((world / "compared" / "seed-0" / "trainings").iterdir())
    assert len(trained) == 3  # SFT's adapter is the warm one of SemiEvol
    assert "| SemiEvol |" in (world / "compared" / "compare.md").read_text()
    assert compare() == summary
    assert sorted((world / "compared" / "seed-0" / "trainings").iterdir()) == sorted(trained)


def test_the_example_of_the_documentation_runs(world: Path) -> None:
    script = Path.cwd() / "docs" / "examples" / "on_files.py"
    sizes = ["--per-label", "4", "--queries", "16", "--test", "16", "--neighbours", "1"]
    result = subprocess.run(
        [sys.executable, script, "--out", "example", "--model", "model", *sizes],
        cwd=world,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert result.returncode == 0, result.stderr
    page = (world / "example" / "run" / "report.html").read_text()
    assert "Precision against coverage" in page
    assert (world / "example" / "run" / "report" / "accuracy.csv").exists()


def panelled(world: Path) -> MethodConfig:
    config = load_config(MethodConfig, world / "c.yaml", {"SEMIEVOL__MODEL__NAME": str(world / "model")})
    changed = {
        "labelling": {
            "configurations": [{"name": "closed", "temperature": 0, "neighbours": 0}],
            "justify": False,
            "panel": {"adapters": 2, "by": "halves"},
            "probe": {},
        },
        "selection": {"by": "votes", "theta": 1.0, "min_agreement": 0},
        "training": {**config.training.model_dump(), "adapt_epochs": 2},
    }
    return MethodConfig.model_validate(config.model_dump() | changed)


async def test_two_runs_with_a_panel_and_the_queries_text_end_with_the_same_adapter(world: Path) -> None:
    config = panelled(world)
    found = []
    for name in ("one", "two"):
        files = EvolveFiles(world / "labeled.jsonl", world / "unlabeled.jsonl", world / "panel" / name)
        summary = await run_evolve(config, files, rounds=1, holdout_share=0.2, watcher=no_watcher)
        warm, evolved = summary["rounds"]
        manifests = [verify(files.out / "adapters" / each["adapter"]) for each in (warm, evolved)]
        (read,) = (files.out / "adapters").glob("adapted-*")
        assert [manifest.parent for manifest in manifests] == [read.name, read.name]
        assert len(list((files.out / "adapters").glob("panel*"))) == 2
        labels = read_pseudo_labels(files.out / "round-0002" / "pseudo_labels.jsonl")
        assert {len(label.candidates) for label in labels} == {4}
        assert evolved["panel"]["labels"] == summary["examples"]
        assert evolved["panel"]["estimated_accuracy"] == pytest.approx(sum(x.right or 0 for x in labels) / len(labels))
        found.append(([manifest.content_hash for manifest in manifests], labels, evolved["panel"]))
    assert found[0] == found[1]


async def test_label_asks_a_panel_too(world: Path) -> None:
    out = world / "panel" / "labels.jsonl"
    adapter = make_tiny_adapter(world / "model", world / "panel" / "adapters", seed=3)
    said = await run_label(
        panelled(world), world / "labeled.jsonl", world / "unlabeled.jsonl", out, adapter, no_watcher
    )
    assert (said["labelled"], said["panel"]["labels"]) == (8, 24)
    names = {each.configuration for label in read_pseudo_labels(out) for each in label.candidates}
    assert names == {"closed", "panel 1", "panel 2", "probe"}
    assert not out.with_name("labels.jsonl.folds").exists()


async def test_label_asks_for_what_its_adapter_read_only_where_it_teaches_others(world: Path) -> None:
    config = panelled(world)
    adapters = world / "read" / "adapters"
    adapter = make_tiny_adapter(world / "model", adapters, seed=3, parent="adapted-elsewhere")
    files = (world / "labeled.jsonl", world / "unlabeled.jsonl", world / "read" / "labels.jsonl")
    with pytest.raises(AdapterError, match="adapted-elsewhere: no such adapter directory"):
        await run_label(config, *files, adapter, no_watcher)
    alone = config.model_copy(update={"labelling": config.labelling.model_copy(update={"panel": None})})
    assert (await run_label(alone, *files, adapter, no_watcher))["labelled"] == 8


async def test_train_does_not_read_what_a_risk_is_certified_on(world: Path) -> None:
    """A query may ask what a calibration example asks."""
    out = world / "held"
    out.mkdir()
    config = load_config(MethodConfig, world / "c.yaml", {"SEMIEVOL__MODEL__NAME": str(world / "model")})
    training = config.training.model_copy(update={"adapt_epochs": 1.0, "epochs": 1.0})
    plain = config.model_copy(update={"training": training})
    at_risk = plain.model_copy(update={"selection": SelectionConfig(risk=RiskConfig())})
    examples = read_examples(world / "labeled.jsonl", Task(config.task), config.data)
    calibration = split_calibration(examples, RiskConfig().calibration_share)[1]
    queries = [{"id": f"again-{each.id}", "question": each.query.question} for each in calibration]
    write(out / "queries.jsonl", [*queries, {"id": "q0", "question": "say a q0"}])
    await run_label(plain, world / "labeled.jsonl", out / "queries.jsonl", out / "labels.jsonl", None, no_watcher)
    await run_train(at_risk, world / "labeled.jsonl", out / "labels.jsonl", out / "run", None, no_watcher)
    assert [row.id for row in read_snapshot(out / "run" / "adapted" / "snapshot")[1]] == ["q0"]
