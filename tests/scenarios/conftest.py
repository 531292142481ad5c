"""Prints at the end what became of all stories."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.table import table
from tests.scenarios.telling import KEPT, tell  # noqa: F401

PAGE = Path(__file__).parents[2] / ".cache" / "scenarios.md"
"""To be looked at."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if kept := config.stash.get(KEPT, None):
        page = table(kept.values())
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page, "utf-8")
        terminalreporter.section("what became of the stories")
        terminalreporter.write_line(page)
