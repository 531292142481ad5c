import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from semievol.commands import cli
from semievol.commands.label import run_label
from semievol.config.method import MethodConfig
from semievol.errors import DataError, SemiEvolError

ENV = {"SEMIEVOL__MODEL__NAME": "/nowhere/model"}


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "semievol.commands.cli", *arguments],
        env={"PATH": "/usr/bin", **(ENV if env is None else env)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def files(tmp_path: Path) -> list[str]:
    (tmp_path / "labeled.jsonl").write_text('{"id": 1, "question": "x", "answer": "a"}\n')
    (tmp_path / "unlabeled.jsonl").write_text('{"id": 2, "question": "y"}\n')
    return ["--examples", str(tmp_path / "labeled.jsonl"), "--queries", str(tmp_path / "unlabeled.jsonl")]


def test_help_names_the_commands_and_imports_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "peft", "sentence_transformers", "qdrant_client", "numpy", "pydantic", "daemon"]
    program = (
        "import sys; from semievol.commands import cli; sys.argv = ['semievol', '--help']\n"
        "cli.entry_points = lambda group: []\n"
        "try: cli.main()\n"
        f"finally: print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert found.stderr.strip() == "[]"
    for command in ("evolve", "label", "train", "eval", "report"):
        assert command in found.stdout


def test_a_missing_option_is_a_usage_error() -> None:
    result = run("evolve")
    assert result.returncode == 2
    assert "Missing option" in result.stderr


def test_a_configuration_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: {name: m}\nselection: {thta: 1}")
    result = run("label", *files(tmp_path), "--out", str(tmp_path / "o.jsonl"), "-c", str(tmp_path / "c.yaml"))
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path}/c.yaml: selection.thta: unknown key; did you mean theta?\n"


def test_a_data_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    arguments = files(tmp_path)
    (tmp_path / "labeled.jsonl").write_text('{"id": 1, "question": "x"}\n')
    result = run("evolve", *arguments, "--out", str(tmp_path / "run"))
    assert result.returncode == 2
    assert result.stderr == "error: labeled.jsonl:1: field 'answer': missing\n"
    assert not (tmp_path / "run").exists()


def test_a_failed_run_is_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def broken() -> None:
        raise SemiEvolError("the engine\nstopped")

    with pytest.raises(SystemExit) as stopped:
        cli.run_app(app, [])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: the engine stopped\n"


def test_installed_packages_add_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "service"

        def load(self):  # type: ignore[no-untyped-def]
            def register(app: typer.Typer) -> None:
                app.command("status")(lambda: print("all is well"))

            return register

    class Broken(Entry):
        name = "broken"

        def load(self):  # type: ignore[no-untyped-def]
            raise ImportError("No module named 'x'")

    monkeypatch.setattr(cli, "entry_points", lambda group: [Broken(), Entry()] if group == "semievol.commands" else [])
    app = typer.Typer()
    app.command("evolve")(lambda: None)
    cli.add_installed_commands(app)
    assert CliRunner().invoke(app, ["status"]).output == "all is well\n"


def test_results_are_printed_as_json_or_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    summary = {"serving": None, "rounds": [{"gate": {"p": 0.123456}}]}
    cli.show(summary, cli.OutputFormat.JSON)
    assert json.loads(capsys.readouterr().out) == summary
    cli.show(summary, cli.OutputFormat.TABLE)
    assert capsys.readouterr().out.split() == ["serving", "None", "rounds.1.gate.p", "0.1235"]


def test_help_with_the_daemons_commands_imports_nothing_heavy() -> None:
    heavy = [
        "torch",
        "transformers",
        "peft",
        "sentence_transformers",
        "qdrant_client",
        "numpy",
        "sqlalchemy",
        "aiohttp",
    ]
    program = (
        "import sys; from semievol.commands import cli; sys.argv = ['semievol', '--help']\n"
        "try: cli.main()\n"
        f"finally: print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "explain" in result.stdout
    assert result.stderr.strip() == "[]"


def test_the_home_directory_is_found_in_an_option_with_a_sign_of_equality(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    app = typer.Typer()

    @app.command()
    def shown(out: Path, text: str = "") -> None:
        print(out, text)

    with pytest.raises(SystemExit):
        cli.run_app(app, ["~id", "--text=~/x=y"])
    assert capsys.readouterr().out == "~id /home/me/x=y\n"


async def test_too_few_examples_to_learn_from_are_told_before_a_model_is_opened(tmp_path: Path) -> None:
    examples, queries = tmp_path / "examples.jsonl", tmp_path / "queries.jsonl"
    examples.write_text('{"id": "e1", "question": "one?", "answer": "a"}\n', "utf-8")
    queries.write_text('{"id": "q1", "question": "two?"}\n', "utf-8")
    config = MethodConfig.model_validate(
        {
            "model": {"name": str(tmp_path / "no-model")},
            "task": {"labels": ["a", "b"]},
            "selection": {"by": "learned", "min_agreement": 0},
        }
    )
    with pytest.raises(DataError, match="learned has 1 labelled questions to learn from, and needs 20"):
        await run_label(config, examples, queries, tmp_path / "out.jsonl", None, lambda *_: lambda _: None)
    assert not (tmp_path / "out.jsonl").exists()
