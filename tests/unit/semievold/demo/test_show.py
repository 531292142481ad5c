"""What is printed at the end, and put into the report: the table, what the daemon did by itself, and the console."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from semievol.report.data import ReportData, RoundReport, Score
from semievol.report.page import render
from semievold.demo.client import DaemonClient, Memory
from semievold.demo.scenario import Story
from semievold.demo.show import _console, print_summary
from semievold.demo.summary import figures
from semievold.demo.telling import CanaryTold, DriftTold, GateTold, RollbackTold, Told

TOLD = Told(
    (GateTold(2, "no significant difference: 9 wins, 2 losses", 61, 24, 23, 14.2, "significantly better"),),
    (CanaryTold(2, "settled", ((0.2, 60, 11), (1.0, 60, 60)), 0),),
    (
        RollbackTold(
            4, "accuracy", 51.2, 20.0, "of 16 labels 12 are right by the version before alone", 5.8, "promo code"
        ),
    ),
    (DriftTold(1, "input", "queries are less like the examples; they speak of: job, vacancy", ("job",), ("topics",)),),
    ("a sixth act",),
)
SAID = (
    "Of customers' mail 61 queries were answered by both versions, 24 of them differently; people gave 23 labels",
    "Round 2 was on trial with 20 % of the customers (11 of 60), then 100 % of the customers (60 of 60); each kept",
    "learned from labels that all said 'promo code', and passed its gate; 6 s after its first client the daemon took",
    "Test: accuracy: of 16 labels 12 are right by the version before alone (evidence 51.2, alarm at 20).",
    "Drift event 1, input (part of it: topics): queries are less like the examples; they speak of: job, vacancy.",
    "Not seen in this run: a sixth act.",
)


def data() -> ReportData:
    rounds = (RoundReport(0, "warm", "settled", test_before=Score(0, 96), test_after=Score(32, 96)),)
    return ReportData("demo", {"console": "http://127.0.0.1:1/"}, rounds=rounds, notes=TOLD.sentences())


def test_the_summary_and_the_report_tell_what_the_daemon_did_by_itself() -> None:
    printed = io.StringIO()
    summary = figures(data(), Story(poisoned=4), TOLD, Memory())
    print_summary(data(), summary, TOLD, Console(file=printed, width=1000))
    page = render(data())
    for said in SAID:
        assert said in printed.getvalue()
        assert said.replace("'", "&#39;") in page
    assert "http://127.0.0.1:1/" in page
    assert summary["gates"][0]["labels"] == 23
    assert summary["canaries"][0]["stages"] == ((0.2, 60, 11), (1.0, 60, 60))
    assert (summary["rollbacks"][0]["test"], summary["rollbacks"][0]["evidence"]) == ("accuracy", 51.2)
    assert summary["drift"][0]["words"] == ("job",)


def test_the_console_is_named_with_its_pages_and_token_while_the_daemon_goes_on(tmp_path: Path) -> None:
    (tmp_path / "endpoints.json").write_text('{"api": "http://127.0.0.1:8321"}')
    client = DaemonClient(tmp_path / "semievol.yaml", tmp_path)
    said = _console(client, tmp_path, True)
    assert said.startswith("http://127.0.0.1:8321/ (rounds: http://127.0.0.1:8321/rounds, drift: ")
    assert str(tmp_path / "api.token") in said
    assert "make run" in _console(client, tmp_path, False)
