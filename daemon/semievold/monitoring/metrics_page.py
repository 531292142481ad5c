"""Writes docs/metrics.md from the declarations: `python -m semievold.monitoring.metrics_page docs/metrics.md`.

Owns the words around the tables. A test compares the file with what this makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from semievold.monitoring.catalogue import Declared
from semievold.monitoring.metrics import Metrics
from semievold.monitoring.state_metrics import STATE_METRICS
from semievold.monitoring.sync_metrics import SIDECAR, SYNC_METRICS

HEAD = """# Metrics

Generated from the code by `make metrics-docs`; edit the declarations in `daemon/semievold/monitoring/`.

Every process serves `/metrics` on the port of its admin API. A scrape reads memory alone: what a process does it counts
itself, and the figures of the state are read by the leader every `api.metrics_interval_s` and exported by it alone, so
that a sum over all processes counts nothing twice. Counters and histograms whose label values are a closed set start at
zero. Every series has the label `workload`; Prometheus adds `job` and `instance`, and `process_*` and `python_*` are
those of the client library.
"""


def declared() -> list[Declared]:
    """Every metric of the daemon, and of the sidecar."""
    return [*Metrics("any").declared, *STATE_METRICS, *SYNC_METRICS]


def page() -> str:
    """The whole file."""
    metrics = declared()
    return HEAD + "".join(
        f"\n## {title}\n\n" + _table(each for each in metrics if each.by == by)
        for by, title in (
            ((), "Every process"),
            (("intake",), "Role intake"),
            (("intake", "labels"), "Roles intake and labels"),
            (("labels",), "Role labels"),
            (("gateway",), "Role gateway"),
            (("intake", "control", "gateway"), "Roles intake, control and gateway"),
            (("control",), "Role control"),
            (("leader",), "The process that leads"),
            (SIDECAR, "`semievold sync-adapters`, without the label `workload`"),
        )
    )


def _table(metrics: Iterable[Declared]) -> str:
    lines = ["| metric | type | labels | what |", "|---|---|---|---|"]
    for each in sorted(metrics, key=lambda one: one.name):
        labels = "; ".join(f"`{name}`: {_values(values)}" for name, values in each.labels.items())
        lines.append(f"| `{each.full_name}` | {each.kind} | {labels} | {each.text} |")
    return "\n".join(lines) + "\n"


def _values(values: tuple[str, ...] | str) -> str:
    return values if isinstance(values, str) else ", ".join(values)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
