"""The table of calls in docs/gateway.md, between its two markers: written by a whole run, read by a unit test."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.clients import environments
from tests.clients.calls import Call
from tests.clients.verdicts import Kind, Verdict, said

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gateway.md"
BEGIN, END = "<!-- make clients writes from here -->", "<!-- to here -->"
HEAD = ("client", "call", "generator in this process", "vLLM")
_LIBRARIES = {
    "openai-python": ("newest", "openai"),
    "openai-python 2": ("earlier", "openai"),
    "langchain": ("newest", "langchain-openai"),
    "litellm": ("newest", "litellm"),
    "pydantic-ai": ("newest", "pydantic-ai-slim"),
    "instructor": ("earlier", "instructor"),
    "llama-index": ("earlier", "llama-index-llms-openai-like"),
}


class Row(NamedTuple):
    """One line of the table."""

    client: str
    what: str
    here: str
    there: str


def rows(page: str) -> list[Row]:
    """The table's lines in a page.

    Raises:
        ValueError: no markers, another head, or a line of another form.
    """
    _, begin, rest = page.partition(BEGIN)
    inside, end, _ = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} or no {END}")
    lines = [line for line in inside.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    if not cells or tuple(cells[0]) != HEAD or not re.fullmatch(r"\|(---\|)+", lines[1]):
        raise ValueError(f"the table does not begin with {HEAD}")
    found = []
    for line, row in zip(lines[2:], cells[2:], strict=True):
        if len(row) != len(HEAD) or not all(row):
            raise ValueError(f"not {len(HEAD)} cells with something in them: {line}")
        found.append(Row(*row))
    return found


def written(
    page: str, calls: Iterable[Call], verdicts: Mapping[str, Verdict], outcomes: Mapping[str, Mapping[str, Any]]
) -> str:
    """The page with a new table. `outcomes`: by engine (`embedded`, `vllm`), then by the call's name."""
    calls = list(calls)
    counts = Counter(verdicts[call.name].kind for call in calls)
    clients = list(dict.fromkeys(call.client for call in calls))
    names = ", ".join(f"{client}{_version(client)}" for client in clients)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in Kind if counts[kind])
    lines = [f"{len(calls)} calls of {names}: {told}.", "", f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for call in calls:
        here, there = (said(outcomes[engine][call.name]) for engine in ("embedded", "vllm"))
        lines.append(f"| {' | '.join((call.client, call.what, here, there))} |")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{rest.partition(END)[2]}"


def _version(client: str) -> str:
    return f" {environments.version(*_LIBRARIES[client])}" if client in _LIBRARIES else ""
