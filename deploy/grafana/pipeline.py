"""`Pipeline and replicas`."""

from __future__ import annotations

from deploy.grafana.asking import (
    per_second,
    quantiles,
)
from deploy.grafana.building import I, Panel, Row

PIPELINE = [
    Row(
        "Intake and labels",
        [
            Panel(
                "Queries",
                "Read, labelled, and redelivered.",
                "ops",
                [
                    (per_second("intake_received_total"), "read"),
                    (per_second("intake_labelled_total"), "labelled"),
                    (per_second("intake_duplicates_total"), "redelivered"),
                ],
            ),
            Panel("From record to label", "Quantiles; a hold does not count.", "s", quantiles("intake_delay_seconds")),
            Panel(
                "Lag",
                "Records not committed; held: 1 while a role does not read.",
                "none",
                [
                    (f"sum by (role) (semievol_stream_lag{{{I}}})", "{{role}}"),
                    (f"max by (role) (semievol_stream_held{{{I}}})", "held: {{role}}"),
                ],
            ),
            Panel(
                "In flight",
                "Query records read and not committed.",
                "none",
                [(f"sum by (workload) (semievol_intake_in_flight{{{I}}})", "")],
            ),
            Panel(
                "Dead letters",
                "By reason.",
                "ops",
                [(f"{per_second('dead_letters_total', 'role', 'reason')} > 0", "{{role}}: {{reason}}")],
            ),
            Panel(
                "Retries",
                "Batches tried again because a component did not answer.",
                "ops",
                [(per_second("retries_total", "role"), "{{role}}")],
            ),
            Panel("Labels", "Records of the labels topic.", "ops", [(per_second("labels_received_total"), "read")]),
            Panel(
                "Feedback",
                "What became of it.",
                "ops",
                [
                    (per_second("feedback_total", "outcome"), "{{outcome}}"),
                    (per_second("feedback_received_total", "standing"), "{{standing}}"),
                ],
            ),
            Panel(
                "Control texts",
                "Texts that were kept from becoming control tokens.",
                "ops",
                [(per_second("neutralised_texts_total", "where"), "{{where}}")],
            ),
        ],
    ),
    Row(
        "Gateway",
        [
            Panel("Requests", "By status.", "reqps", [(per_second("gateway_requests_total", "code"), "{{code}}")]),
            Panel(
                "Admitted",
                "By what became of them.",
                "reqps",
                [(per_second("gateway_answers_total", "outcome"), "{{outcome}}")],
            ),
            Panel("Latency", "Quantiles, admission to answer.", "s", quantiles("gateway_seconds")),
            Panel(
                "By token", "Requests.", "reqps", [(per_second("gateway_token_requests_total", "token"), "{{token}}")]
            ),
            Panel(
                "Captured",
                "Client queries published, and left out by reason.",
                "ops",
                [
                    (per_second("gateway_captured_total"), "published"),
                    (per_second("gateway_capture_dropped_total", "reason"), "{{reason}}"),
                ],
            ),
            Panel(
                "Attempts that a replica failed",
                "By replica.",
                "ops",
                [(per_second("gateway_upstream_failures_total", "replica"), "{{replica}}")],
            ),
        ],
    ),
    Row(
        "Replicas and processes",
        [
            Panel(
                "Replicas",
                "In which state each is.",
                "none",
                [(f"max by (replica, state) (semievol_replica_state{{{I}}}) == 1", "{{replica}}: {{state}}")],
            ),
            Panel(
                "Proved",
                "1 for an adapter that a replica proved, 0 for one that it failed.",
                "none",
                [(f"min by (replica, adapter) (semievol_replica_attested{{{I}}})", "{{replica}}: {{adapter}}")],
            ),
            Panel(
                "Running",
                "Requests on each replica.",
                "none",
                [(f"sum by (replica) (semievol_replica_running{{{I}}})", "{{replica}}")],
            ),
            Panel(
                "Processes",
                "By role; leaders; those that follow the alias.",
                "none",
                [
                    (f"sum by (role) (semievol_role{{{I}}})", "{{role}}"),
                    (f"sum(semievol_leader{{{I}}})", "leads"),
                    (f"sum(semievol_alias_followed{{{I}}})", "follows"),
                ],
            ),
            Panel(
                "Processor",
                "Cores used by each process.",
                "none",
                [('rate(process_cpu_seconds_total{instance=~"$instance"}[$__rate_interval])', "{{instance}}")],
            ),
            Panel(
                "Memory",
                "Resident.",
                "bytes",
                [('process_resident_memory_bytes{instance=~"$instance"}', "{{instance}}")],
            ),
        ],
    ),
]
