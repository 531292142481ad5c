"""Text is not markup: what comes out is what went in, in every command's way of printing."""

import io
import json
import sys
from typing import Any

import pytest

from semievol.commands import cli, printing

TEXTS = ("install semievol[local]", "[/INST]", ":package: in [bold]red[/bold]", "a [link=x]b", "\\[x]")


@pytest.mark.parametrize("text", TEXTS)
def test_what_looks_like_markup_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.show({"by_category": {text: 0.5}, "out": text}, cli.OutputFormat.TABLE)
    found = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in found] == [f"by_category.{text}", "out"]
    assert found[1].endswith(text)
    printing.say_table([{"part": text, "detail": text}], ["part", "detail"], ["detail"])
    assert capsys.readouterr().out.count(text) == 2
    printing.plain_console().print(text)
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize("text", TEXTS)
def test_an_error_and_a_progress_bar_are_no_markup(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    from semievol.errors import DataError

    app = typer.Typer()

    @app.command()
    def broken() -> None:
        with cli._progress() as watcher:
            watcher(text, 3)(1)
        raise DataError(text)

    with pytest.raises(SystemExit):
        cli.run_app(app, [])
    assert capsys.readouterr().err == f"error: {text}\n"


def test_a_usage_error_shows_what_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in ("[/INST]", "nosuch[b]:package:"):
        with pytest.raises(SystemExit):
            cli.run_app(cli.app, [typed])
        assert f"No such command '{typed}'" in capsys.readouterr().err


def test_a_text_does_not_steer_the_terminal() -> None:
    assert printing.plain("a\x1b[31mb\x07\u202ec\ud800\x9b") == "a\\u001b[31mb\\u0007\\u202ec\\ud800\\u009b"
    assert printing.plain("ä → 质\t\n") == "ä → 质\t\n"


def test_a_value_begins_no_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    printing.say_pairs([("a\nb", "c\nstate: fine\r")])
    printing.say_table([{"a": "b\nc", "detail": "d\u2029e"}], ["a", "detail"], ["detail"])
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "a\\nb  c\\nstate: fine\\r"
    assert "b\\nc" in out
    assert "d\\u2029e" in out


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli._fail(ValueError("x\x1b[2J\ny\u202e"), 1)
    assert capsys.readouterr().err == "error: x\\u001b[2J y\\u202e\n"


def test_json_stays_json_whatever_the_terminal_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": "é\x9b\u202e😀\n"}
    for encoding in ("utf-8", "ascii"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        cli.show(value, cli.OutputFormat.JSON)
        sys.stdout.flush()
        assert json.loads(raw.getvalue().decode(encoding)) == value


ROUND = {
    "round": "12",
    "kind": "evolve",
    "state": "inconclusive",
    "adapter": "r0012-0123abcd",
    "pool": "20000",
    "selected": "10000",
    "holdout": "0.333 -> 0.625",
    "trigger": "500 new pseudo-labels since round 11",
    "reason": "the candidate is right on 45 of 72 and the incumbent on 43, which proves nothing at the level 0.05 [x]",
}


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_fits_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    printing.say_table([ROUND, {**ROUND, "round": "11", "reason": "-"}], list(ROUND), ["trigger", "reason"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    for text in ROUND.values():
        assert " ".join(text.split()) in " ".join(out.split())
    if width == 80:
        header, first, *_ = out.splitlines()
        assert header.split() == ["round", "kind", "state", "adapter", "pool", "selected", "holdout"]
        assert first.index("inconclusive") == header.index("state")
        assert len(out.splitlines()) == 1 + 2 * 2 + 2  # each row with its trigger, one with a reason of two lines


def test_one_text_stands_beside_the_others_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    printing.say_table([{"part": "model", "ok": "no", "detail": "word " * 20}], ["part", "ok", "detail"], ["detail"])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "part   ok  detail"
    assert len(lines) > 1
    assert {line.index("word") for line in lines} == {header.index("detail")}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s ago"),
        (59.9, "59 s ago"),
        (185, "3 min ago"),
        (7_300, "2 h ago"),
        (200_000, "2 d ago"),
        (-90, "in 1 min"),
    ],
)
def test_a_time_is_said_as_how_long_ago(seconds: float, said: str) -> None:
    assert printing.ago(seconds) == said


def test_a_name_stays_in_its_cell_of_a_markdown_table() -> None:
    from semievol.comparison.table import markdown

    row: dict[str, Any] = {
        "row": "model-x",
        "title": "a | b\nc",
        "closed": {"accuracy": 0.5, "low": 0.4, "high": 0.6, "over_rounds": [0.5]},
    }
    form = __import__("semievol.comparison.table", fromlist=["FORMS"]).FORMS[0]
    row[form] = row.pop("closed")
    summary = {"seeds": [0], "examples": 1, "queries": 1, "tested": 1, "neighbours": 3, "rows": [row]}
    assert "| a \\| b c | 50.0 [" in markdown(summary)
