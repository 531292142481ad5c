"""A real browser for tests: Debian's Chromium without a window, driven by playwright, which looks for no other one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers import unavailable

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE_MS = 90_000
"""For one step on a busy machine."""
AXE_TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")


def chromium() -> str | None:
    """Where it is."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Browser]:
    """Skips the test where there is none."""
    program = chromium()
    if program is None:
        unavailable("Chromium is missing: install it (Debian: apt-get install chromium)")
    if find_spec("playwright") is None:
        unavailable("the package playwright is missing; `make setup` brings it")
    from playwright.sync_api import sync_playwright

    # Its own sandbox wants rights that root in a container has not.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=arguments, timeout=PATIENCE_MS)
        try:
            yield started
        finally:
            started.close()


def serious_findings(page: Page) -> list[str]:
    """What axe-core finds on the page, if it is serious or critical: rule and where.

    Skips the test where the package that brings axe-core is missing.
    """
    found = find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        unavailable("the package axe-playwright-python is missing; `make setup` brings it")
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(
            (Path(found.origin).parent / "axe.min.js").read_text("utf-8")
        )  # the page's policy lets no script in
    options = {"runOnly": {"type": "tag", "values": list(AXE_TAGS)}}
    violations: list[dict[str, Any]] = page.evaluate("o => axe.run(document, o).then(r => r.violations)", options)
    return [
        f"{each['id']}: {node['target']} {node.get('failureSummary', '')}"
        for each in violations
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"][:3]
    ]
