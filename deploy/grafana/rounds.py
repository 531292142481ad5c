"""`Rounds, gate and adapters`."""

from __future__ import annotations

from deploy.grafana.asking import (
    HOLDOUT,
    SERVING,
    SINCE,
    WAITS,
    newest,
    per_second,
)
from deploy.grafana.building import Panel, Row

ROUNDS = [
    Row(
        "Rounds",
        [
            WAITS,
            SERVING,
            SINCE,
            Panel("Open round", "Its number; -1: none is open.", "none", [(newest("open_round"), "")], "stat", 4, 4),
            Panel(
                "In its state since",
                "Of the open round.",
                "dateTimeFromNow",
                [(f"1000 * {newest('round_state_since_timestamp_seconds')}", "")],
                "stat",
                4,
                4,
            ),
            Panel("Rounds", "By state.", "none", [(f"{newest('rounds', 'state')} > 0", "{{state}}")]),
            Panel(
                "Last round ended",
                "How long ago.",
                "s",
                [(f"time() - {newest('last_round_ended_timestamp_seconds')}", "")],
            ),
            Panel(
                "Steps of the newest round",
                "How long it was in each state that it has left.",
                "s",
                [(f"{newest('round_step_seconds', 'state')} > 0", "{{state}}")],
            ),
            Panel(
                "Pool",
                "Of the newest round, by whether it trains on it.",
                "none",
                [(newest("round_pool", "selected"), "selected: {{selected}}")],
            ),
            Panel("Examples", "By side.", "none", [(newest("examples", "split"), "{{split}}")]),
            Panel(
                "Pseudo-labels",
                "Stored, without an answer, and with a prediction that is due.",
                "none",
                [
                    (newest("pseudo_labels"), "stored"),
                    (newest("pseudo_labels_unparsed"), "unparsed"),
                    (newest("predictions_unpublished"), "unpublished"),
                ],
            ),
        ],
    ),
    Row(
        "Training and gate",
        [
            Panel(
                "Training",
                "How much of the running one is done.",
                "percentunit",
                [(newest("training_progress_ratio"), "")],
            ),
            Panel("Loss", "Of the last step of the running training.", "none", [(newest("training_loss"), "")]),
            HOLDOUT,
            Panel(
                "Evidence",
                "E-value that the open round's candidate is better; 20 proves it at 5 %.",
                "none",
                [(newest("gate_evidence"), "")],
            ),
            Panel(
                "Pairs",
                "Labels that both models of the open round answered.",
                "none",
                [(newest("gate_pairs", "outcome"), "{{outcome}}")],
            ),
            Panel(
                "Labels still needed",
                "At the present rate of disagreement; -1: unknown.",
                "none",
                [(newest("gate_labels_needed"), "gate"), (newest("certificate_labels_missing"), "certificate")],
            ),
            Panel(
                "Collapse breaker",
                "What was measured before the newest training, and the bounds beyond which rounds are frozen.",
                "none",
                [
                    (newest("breaker_figure", "measure"), "{{measure}}"),
                    (newest("breaker_bound", "measure"), "bound of {{measure}}"),
                ],
            ),
            Panel(
                "Breaker tripped",
                "1 for each bound for which the open round was stopped.",
                "none",
                [(newest("breaker_tripped", "measure"), "{{measure}}")],
            ),
            Panel(
                "Questions put before people",
                "Items that wait for a label, by purpose.",
                "none",
                [(newest("review_items", "purpose"), "{{purpose}}")],
            ),
            Panel(
                "Labels of people",
                "Items that were labelled, by the way of the label.",
                "none",
                [(newest("review_labels", "by"), "{{by}}")],
            ),
            Panel(
                "Worth of the next round",
                "Points that it is expected to bring and to cost, where `trigger.kind` is `worth`.",
                "none",
                [(newest("trigger_points", "side"), "{{side}}")],
            ),
        ],
    ),
    Row(
        "Canary",
        [
            Panel(
                "Share on trial",
                "Of the clients, answered by the version on trial; nothing while none is.",
                "percentunit",
                [(newest("canary_share"), "")],
            ),
            Panel("Stage", "Of the version on trial, from 1.", "none", [(newest("canary_stage"), "")]),
            Panel(
                "Answers counted",
                "Of the version on trial, in all stages, and of what serves.",
                "none",
                [(newest("canary_answers", "version"), "{{version}}")],
            ),
            Panel(
                "Evidence against it",
                "By test, as a share of the alarm; 1 takes the version back.",
                "percentunit",
                [(newest("canary_evidence_ratio", "test"), "{{test}}")],
            ),
            Panel(
                "Answers by version",
                "At the gateways.",
                "reqps",
                [(per_second("gateway_version_answers_total", "adapter", "outcome"), "{{adapter}} {{outcome}}")],
            ),
        ],
    ),
    Row(
        "Live queries that both versions answer",
        [
            Panel(
                "Shadow pairs",
                "Of the open round, by whether the answers differ; nothing while no versions are compared.",
                "none",
                [(newest("watch_pairs", "differ"), "{{differ}}")],
            ),
            Panel(
                "Evidence against its version",
                "By test; 1,000 takes it back, 20 that of accuracy.",
                "none",
                [(newest("watch_evidence", "test"), "{{test}}")],
            ),
            Panel(
                "What became of what was drawn",
                "too_many: above shadow.per_second; busy: not answered in time.",
                "ops",
                [(per_second("shadow_pairs_total", "outcome"), "{{outcome}}")],
            ),
        ],
    ),
    Row(
        "Adapters",
        [
            Panel("Adapters", "By state.", "none", [(newest("adapters", "state"), "{{state}}")]),
            Panel("Promotions", "How often the alias was moved.", "none", [(newest("alias_generation"), "")]),
            Panel(
                "Requests of operators",
                "That are not answered yet.",
                "none",
                [(newest("operator_requests_pending"), "")],
            ),
            Panel(
                "Newest label",
                "How long ago.",
                "s",
                [
                    (f"time() - {newest('last_label_timestamp_seconds')}", "label"),
                    (f"time() - {newest('last_pseudo_label_timestamp_seconds')}", "pseudo-label"),
                ],
            ),
            Panel(
                "Figures of the state",
                "How old they are.",
                "s",
                [(f"time() - {newest('state_read_timestamp_seconds')}", "")],
            ),
            Panel(
                "Deleted",
                "Rows that retention let go.",
                "ops",
                [(per_second("retention_deleted_total", "what"), "{{what}}")],
            ),
        ],
    ),
]
