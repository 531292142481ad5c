import time

import pytest

from semievold.commands import output


def test_the_views_of_rounds_fit_eighty_columns_and_say_how_long_ago(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    round_ = {
        "number": 3,
        "kind": "evolve",
        "state": "rolled_back",
        "reason": "agreement fell by 0.31 [/INST], more than rollout.max_agreement_drop = 0.2 :package:",
        "trigger": "by hand",
        "adapter": "r0003-0123abcd",
        "pool": 20_000,
        "selected": 10_000,
        "holdout_accuracy": {"incumbent": 0.333, "candidate": 0.625},
    }
    output.show([round_], "table", columns=output.ROUND_COLUMNS)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "holdout" in shown.splitlines()[0]
    assert str(round_["reason"]) in " ".join(shown.split())
    adapter = {
        "name": "r0003-0123abcd",
        "state": "retired",
        "round": 3,
        "parent": None,
        "content_hash": "0123456789abcdef" * 4,
        "created_at": time.time() - 190,
    }
    output.show([adapter], "table", columns=output.ADAPTER_COLUMNS)
    assert "3 min ago" in capsys.readouterr().out
    output.show({"created_at": adapter["created_at"]}, "table")
    assert capsys.readouterr().out.rstrip().endswith("(3 min ago)")


def test_findings_are_shown_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    detail = "torch missing: install semievol[local], or [/INST] :package:"
    output.show([{"part": "packages", "ok": False, "detail": detail}], "table")
    assert detail in capsys.readouterr().out
    output.show({"question": "[/INST] \x1b[31mred", "messages": [{"role": "user", "content": "[b]"}]}, "table")
    assert capsys.readouterr().out == "question: [/INST] \\u001b[31mred\nmessages:\n  - role user, content [b]\n"
