"""How metrics are asked for, and the panels that more than one dashboard shows."""

from __future__ import annotations

from deploy.grafana.building import I, Panel, W

RATE = "$__rate_interval"


def newest(metric: str, *by: str, matching: str = "") -> str:
    """Of a gauge that the leader alone exports, or that is the same everywhere."""
    return f"max by ({', '.join(('workload', *by))}) (semievol_{metric}{{{W}{matching}}})"


def per_second(metric: str, *by: str, matching: str = "") -> str:
    """How fast a counter grows, summed over processes."""
    return f"sum by ({', '.join(('workload', *by))}) (rate(semievol_{metric}{{{I}{matching}}}[{RATE}]))"


def quantiles(metric: str) -> list[tuple[str, str]]:
    return [
        (f"histogram_quantile({share}, {per_second(metric + '_bucket', 'le')})", f"{int(100 * share)} %")
        for share in (0.5, 0.9, 0.99)
    ]


def share_right(window: str) -> list[tuple[str, str]]:
    """The recorded accuracy on delayed labels, and its 95 % interval by the normal approximation."""
    right = f"semievol:labels_correct:ratio_increase{window}{{{W}}}"
    spread = f"1.96 * sqrt({right} * (1 - {right}) / semievol:labels_joined:increase{window}{{{W}}})"
    return [
        (right, window),
        (f"clamp_min({right} - {spread}, 0)", f"{window} low"),
        (f"clamp_max({right} + {spread}, 1)", f"{window} high"),
    ]


SERVING = Panel(
    "Serving",
    "The adapter that serves; base: none was promoted yet.",
    "none",
    [(newest("serving_adapter", "adapter"), "{{adapter}}")],
    "stat",
    6,
    4,
    names=True,
)
SINCE = Panel(
    "Serves since",
    "When the alias was last moved.",
    "dateTimeFromNow",
    [(f"1000 * {newest('alias_moved_timestamp_seconds')}", "")],
    "stat",
    4,
    4,
)
WAITS = Panel(
    "Waits for",
    "What the next round, or the open one, waits for.",
    "none",
    [(f"{newest('waiting', 'what')} == 1", "{{what}}")],
    "stat",
    6,
    4,
    names=True,
)
HOLDOUT = Panel(
    "Accuracy on the holdout",
    "Of incumbent and candidate at the last gate.",
    "percentunit",
    [(newest("holdout_accuracy", "role"), "{{role}}")],
)
DELAYED = Panel(
    "Accuracy on delayed labels",
    "Labels of queries that were answered earlier, over a day, with its 95 % interval.",
    "percentunit",
    share_right("1d"),
)
AGREEMENT = Panel(
    "Agreement", "Mean over the newest pseudo-labels.", "percentunit", [(newest("recent_agreement"), "agreement")]
)
ENTROPY = Panel(
    "Entropy", "Mean over the newest pseudo-labels, nats per token.", "none", [(newest("recent_entropy"), "entropy")]
)
