"""How the command line prints: JSON for programs, tables and indented lists for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from semievol.commands.printing import say, say_table, when
from semievol.errors import ConfigError
from semievol.plain_lines import one_line

ROUND_COLUMNS = ("number", "kind", "state", "adapter", "pool", "selected", "holdout_accuracy", "trigger", "reason")
TITLES = {"number": "round", "holdout_accuracy": "holdout", "content_hash": "content", "created_at": "created"}
TEXTS = frozenset({"trigger", "reason", "detail", "said"})
"""Columns that hold sentences."""
DRIFT_COLUMNS = ("number", "kind", "category", "at", "closed_by", "said")
ADAPTER_COLUMNS = ("name", "state", "round", "parent", "content_hash", "created_at")


def show(value: Any, output_format: str, *, columns: Sequence[str] | None = None) -> None:
    """Print a view.

    Raises:
        ConfigError: the format is unknown.
    """
    if output_format == "json":
        say(json.dumps(value, ensure_ascii=False, indent=1, default=str))
    elif output_format == "yaml":
        import yaml

        said = yaml.safe_dump(json.loads(json.dumps(value, default=str)), sort_keys=False, allow_unicode=True)
        say(said.removesuffix("\n"))
    elif output_format == "table":
        _people(value, columns)
    else:
        raise ConfigError(f"--output: {output_format!r} is not a format; use table, json or yaml")


def _people(value: Any, columns: Sequence[str] | None) -> None:
    if isinstance(value, list):
        if not value:
            say("none yet")
            return
        names = list(columns or value[0])
        titles = {name: TITLES.get(name, name.replace("_", " ")) for name in names}
        rows = [{titles[name]: _cell(name, row.get(name), short=True) for name in names} for row in value]
        say_table(rows, list(titles.values()), [titles[name] for name in names if name in TEXTS])
        return
    for line in _lines(value, 0):
        say(line)


def _lines(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    lines: list[str] = []
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, Mapping | list) and item:
                lines.append(f"{pad}{one_line(key).replace('_', ' ')}:")
                lines.extend(_lines(item, depth + 1))
            else:
                lines.append(f"{pad}{one_line(key).replace('_', ' ')}: {_cell(str(key), item)}")
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, Mapping):
                lines.append(f"{pad}- " + ", ".join(f"{one_line(k)} {_cell(str(k), v)}" for k, v in item.items()))
            else:
                lines.append(f"{pad}- {_cell('', item)}")
    return lines


def _cell(name: str, value: Any, *, short: bool = False) -> str:
    if value is None or value == [] or value == {}:
        return "-"
    if isinstance(value, float):
        if name.endswith("_at") or name == "at":
            return when(value, short=short)
        return "inf" if math.isinf(value) else f"{value:.4g}"
    if name == "content_hash":
        return str(value)[:12]
    if name == "holdout_accuracy" and isinstance(value, Mapping):
        before, after = value.get("incumbent"), value.get("candidate")
        return "-" if after is None else f"{before:.3f} -> {after:.3f}"
    return one_line(value)
