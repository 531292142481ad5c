"""Text from outside on a terminal and in a log: it steers nothing, and it begins no line of its own."""

from __future__ import annotations

import io
import json
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol import plain_lines
from semievol.plain_lines import LineFormatter, one_line, plain

HOSTILE = (
    "\x1b[2J\x1b]0;title\x07\x1b]8;;http://x\x1b\\",
    "\r",
    "\x85",
    "\u2028",
    "\u2029",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x1d",
    "\x1e",
    "\x9b31m",
    "\x90",
    "\u202e",
    "\u2066",
    "\u200f",
    "\u061c",
    "\ufff9",
    "\U000e0041",
    "\x7f",
    "\x00",
    "\ud800",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_a_text_steers(text: str) -> None:
    shown = plain(f"a{text}b")
    assert shown.startswith("a\\")
    assert shown.isprintable()
    assert json.loads(f'"{shown}"'.replace("\\\\", "\\")) is not None


def test_letters_and_signs_stay_as_they_are() -> None:
    text = "ä → 质 \U0001f468\u200d\U0001f469 क्\u200dष a\tb"
    assert plain(text + "\n") == text + "\n"
    assert one_line("a\n\tb") == "a\\n\\tb"


@given(st.text(st.characters()))
def test_one_line_is_one_line_for_everybody(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert not any(unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs") for char in line)
    line.encode()


@pytest.fixture
def logged() -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.Logger("tests")
    logger.addHandler(handler)
    return logger, stream


def test_a_record_is_one_line_whatever_it_holds(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = logged
    forged = "q\n2026-11-29T00:00:00 ERROR semievold.service: stopped\r\x1b[2K\u2028"
    logger.warning("query %s is left out: %s", forged, forged)
    try:
        raise ValueError(forged)
    except ValueError:
        logger.exception("failed")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "ValueError: q\\n2026" in lines[1]
    assert "\\nTraceback (most recent call last)" in lines[1]


def test_a_process_without_a_log_warns_in_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "lastResort", logging._StderrHandler(logging.WARNING))  # type: ignore[attr-defined]
    plain_lines.warn_plainly()
    alone = logging.Logger("tests")
    alone.warning("query %s is left out", "a\x1b[2J\nb")
    assert capsys.readouterr().err == "query a\\u001b[2J\\nb is left out\n"
