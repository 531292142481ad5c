"""`Is it learning, is it safe` (one screen for who is on call), and `Confidence and accuracy drift`."""

from __future__ import annotations

from deploy.grafana.asking import (
    AGREEMENT,
    DELAYED,
    ENTROPY,
    HOLDOUT,
    SERVING,
    SINCE,
    WAITS,
    newest,
    per_second,
    quantiles,
    share_right,
)
from deploy.grafana.building import Panel, Row, W

LABELLED = f"({per_second('pseudo_label_agreement_count')} > 0)"
NOT_UNANIMOUS = per_second("pseudo_label_agreement_bucket", matching=', le="0.99"')

ON_CALL = [
    Row(
        "Is it safe",
        [
            Panel(
                "Firing",
                "Alerts of deploy/prometheus/rules; what to do is in docs/runbook.md.",
                "none",
                [('count(ALERTS{alertstate="firing", alertname=~"SemiEvol.*"}) or vector(0)', "")],
                "stat",
                4,
                4,
            ),
            Panel(
                "Leaders",
                "Processes that lead: 1 a workload.",
                "none",
                [(f"sum by (workload) (semievol_leader{{{W}}})", "{{workload}}")],
                "stat",
                4,
                4,
            ),
            SERVING,
            SINCE,
            Panel(
                "Frozen",
                "1 while somebody holds learning by `semievol freeze`.",
                "none",
                [(newest("frozen"), "")],
                "stat",
                3,
                4,
            ),
            Panel(
                "Disk free",
                "Of the disk that has the artifacts.",
                "percentunit",
                [(f"min by (workload) (semievol_disk_free_bytes{{{W}}} / semievol_disk_size_bytes{{{W}}})", "")],
                "stat",
                3,
                4,
            ),
            Panel(
                "Requests that fail",
                "Share of admitted requests; the objective is at most 0.5 %.",
                "percentunit",
                [
                    (f"semievol:answers_failed:ratio_rate5m{{{W}}}", "5 m"),
                    (f"semievol:answers_failed:ratio_rate1h{{{W}}}", "1 h"),
                ],
            ),
            Panel(
                "Queries labelled late",
                "Share labelled later than five minutes; the objective is at most 5 %.",
                "percentunit",
                [
                    (f"semievol:queries_late:ratio_rate5m{{{W}}}", "5 m"),
                    (f"semievol:queries_late:ratio_rate1h{{{W}}}", "1 h"),
                ],
            ),
            Panel(
                "Replicas",
                "By state.",
                "none",
                [(f"sum by (state) (max by (replica, state) (semievol_replica_state{{{W}}}))", "{{state}}")],
            ),
        ],
    ),
    Row(
        "Is it learning",
        [
            WAITS,
            Panel(
                "Last round",
                "How it ended.",
                "none",
                [(f"{newest('last_round_outcome', 'outcome')} == 1", "{{outcome}}")],
                "stat",
                6,
                4,
                names=True,
            ),
            Panel("Open round", "Its number; -1: none is open.", "none", [(newest("open_round"), "")], "stat", 6, 4),
            Panel(
                "Labels still needed",
                "By the open round's gate; -1: no number at this rate.",
                "none",
                [(newest("gate_labels_needed"), "")],
                "stat",
                6,
                4,
            ),
            HOLDOUT,
            DELAYED,
            AGREEMENT,
        ],
    ),
]

DRIFT = [
    Row(
        "Drift",
        [
            Panel(
                "Evidence of drift",
                "Of the workload, as a share of the alarm line: 1 is an alarm (drift.false_alarm_every).",
                "percentunit",
                [
                    (
                        f"max by (workload, kind) (semievol_drift_statistic{{{W}}})"
                        f" / max by (workload, kind) (semievol_drift_alarm_line{{{W}}})",
                        "{{kind}}",
                    )
                ],
            ),
            Panel(
                "Evidence of drift, by category",
                "Of the category that has the most of each kind, as a share of the alarm line.",
                "percentunit",
                [
                    (
                        f"max by (workload, kind) (semievol_drift_category_statistic{{{W}}})"
                        f" / max by (workload, kind) (semievol_drift_alarm_line{{{W}}})",
                        "{{kind}}",
                    )
                ],
            ),
            Panel(
                "Drift events",
                "So far, by what was alarmed first; `semievol drift list` says what they are.",
                "none",
                [(f"max by (workload, kind) (semievol_drift_events{{{W}}})", "{{kind}}")],
            ),
            Panel(
                "Open event",
                "1 while a shift waits for a new reference.",
                "none",
                [(newest("drift_open"), "")],
                "stat",
                6,
                4,
            ),
            Panel(
                "Watched",
                "1 while a kind of drift has a reference and no alarm.",
                "none",
                [(f"max by (workload, kind) (semievol_drift_watched{{{W}}})", "{{kind}}")],
                "stat",
                12,
                4,
            ),
            Panel(
                "Estimate is valid",
                "1 while inputs are watched and quiet: else the accuracy without labels means nothing.",
                "none",
                [(newest("accuracy_without_labels_valid"), "")],
                "stat",
                6,
                4,
            ),
            Panel(
                "Accuracy of what serves",
                "By late labels, prediction-powered, with its interval of 95 %; without labels while inputs are quiet.",
                "percentunit",
                [
                    (f"max by (workload, bound) (semievol_accuracy_by_labels{{{W}}})", "{{bound}}"),
                    (
                        f"max by (workload) (semievol_accuracy_without_labels{{{W}}})"
                        f" and max by (workload) (semievol_accuracy_without_labels_valid{{{W}}}) == 1",
                        "without labels",
                    ),
                ],
                span=24,
            ),
        ],
    ),
    Row(
        "Confidence",
        [
            ENTROPY,
            AGREEMENT,
            Panel(
                "Answers that do not parse",
                "Share of new pseudo-labels.",
                "percentunit",
                [(f"{per_second('intake_unparsed_total')} / ({per_second('intake_labelled_total')} > 0)", "")],
            ),
            Panel(
                "Entropy of new pseudo-labels",
                "Quantiles, nats per token.",
                "none",
                quantiles("pseudo_label_entropy"),
                span=12,
            ),
            Panel(
                "Agreement of new pseudo-labels",
                "Mean, and the share with full agreement.",
                "percentunit",
                [
                    (f"{per_second('pseudo_label_agreement_sum')} / {LABELLED}", "mean"),
                    (f"1 - {NOT_UNANIMOUS} / {LABELLED}", "unanimous"),
                ],
                span=12,
            ),
        ],
    ),
    Row(
        "Accuracy",
        [
            DELAYED,
            Panel("Accuracy on delayed labels, a week", "With its 95 % interval.", "percentunit", share_right("7d")),
            HOLDOUT,
            Panel(
                "Delayed labels",
                "Labels of queries that were answered earlier, by whether the answer was right.",
                "ops",
                [(per_second("labels_joined_total", "correct"), "right: {{correct}}")],
            ),
            Panel(
                "Clients' answers",
                "Beside the earlier one, by whether that was right.",
                "ops",
                [(per_second("feedback_joined_total", "correct"), "right: {{correct}}")],
            ),
            Panel(
                "Contradictions",
                "Items published for review.",
                "ops",
                [(per_second("review_total", "purpose"), "{{purpose}}")],
            ),
        ],
    ),
]
