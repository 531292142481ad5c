"""Writes k8s/components/alerts/rules.yaml from deploy/prometheus/rules: `python -m deploy.prometheus.prometheus_rule`.

kustomize reads no file above its root, so the rules stand in two places; a test compares.
"""

from __future__ import annotations

from pathlib import Path

import yaml

RULES = Path(__file__).parent / "rules"
WRITTEN = Path(__file__).parents[2] / "k8s" / "components" / "alerts" / "rules.yaml"
HEAD = "# Written by `make dashboards` from deploy/prometheus/rules. Change the rules there.\n"


class _Readable(yaml.SafeDumper):
    """Expressions over several lines stay as they are written."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


def rendered() -> str:
    """The file."""
    groups = [
        group
        for name in ("recording.yml", "alerts.yml")
        for group in yaml.safe_load((RULES / name).read_text("utf-8"))["groups"]
    ]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "semievol"},
        "spec": {"groups": groups},
    }
    return HEAD + yaml.dump(rule, Dumper=_Readable, sort_keys=False, width=120)


if __name__ == "__main__":
    WRITTEN.write_text(rendered(), encoding="utf-8")
