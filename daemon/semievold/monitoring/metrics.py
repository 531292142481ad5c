"""What the daemon counts, as Prometheus metrics on a registry of its own.

Owns names, help texts and labels; whoever does the work calls the methods. Label values are closed sets (reasons,
states, roles) or names of adapters and replicas, of which a process holds few; never a query id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from semievol.types import PseudoLabel
from semievold.round_states import RoundState
from semievold.rounds.trigger import WAITS_FOR
from semievold.serving.replica import ReplicaView

ENTROPY_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
WAITING = ("start", "lease", "round", "evidence", "approval", "frozen", *WAITS_FOR)
"""What a controller can wait for; `round`: for the open one; `evidence`: for labels that prove its candidate;
`approval`: for a person's word for it; `frozen`: for the end of a freeze."""
LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The daemon's metrics; one instance a process."""

    def __init__(self, workload: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"semievol_{name}", text, ["workload", *labels], registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"semievol_{name}", text, ["workload", *labels], registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"semievol_{name}", text, ["workload", *labels], buckets=buckets, registry=self.registry)

        self.workload = workload
        self.received = counter("intake_received_total", "Query records read from the stream.")
        self.labelled = counter("intake_labelled_total", "Queries whose pseudo-label became durable.")
        self.duplicates = counter("intake_duplicates_total", "Redelivered queries that were already labelled.")
        self.dead_letters = counter("dead_letters_total", "Records sent to the dead-letter topic.", "role", "reason")
        self.retries = counter("retries_total", "Batches tried again because a component did not answer.", "role")
        self.in_flight = gauge("intake_in_flight", "Query records read and not yet committed.")
        self.intake_held = gauge("intake_held", "1 while queries are not read on purpose, 0 while they are.")
        self.lag = gauge("stream_lag", "Records not yet committed by this consumer.", "role")
        self.pace = gauge("intake_answers_per_minute", "Queries whose pseudo-label became durable in the last minute.")
        self.entropy = histogram("pseudo_label_entropy", "Entropy of pseudo-labels, nats per token.", ENTROPY_BUCKETS)
        self.agreement = gauge("pseudo_label_agreement", "Mean agreement of the last 200 pseudo-labels.")
        self.recent_entropy = gauge("pseudo_label_recent_entropy", "Mean entropy of the last 200 pseudo-labels.")
        self.labels_received = counter("labels_received_total", "Label records read from the stream.")
        self.joined = counter("labels_joined_total", "Labels of queries answered earlier.", "correct")
        self.feedback = counter("feedback_total", "Clients' answers by what became of them.", "outcome")
        self.reviewed = counter("review_total", "Items published to the review topic.", "purpose")
        self.feedback_standing = counter(
            "feedback_received_total",
            "Clients' words at the gateway: joined to their query at once or later, pending, refused, expired.",
            "standing",
        )
        self.feedback_joined = counter("feedback_joined_total", "Clients' answers beside the earlier one.", "correct")
        self.examples = gauge("examples", "Labelled examples.", "split")
        self.pool = gauge("pseudo_labels", "Stored pseudo-labels.")
        self.rounds = gauge("rounds", "Rounds by state.", "state")
        self.round_accuracy = gauge("holdout_accuracy", "Accuracy on the holdout at the last gate.", "role")
        self.gate_evidence = gauge("gate_evidence", "Evidence (e-value) that the open round's candidate is better.")
        self.gate_pairs = gauge("gate_pairs", "Labels that both models of the open round answered.", "outcome")
        self.gate_needed = gauge(
            "gate_labels_needed", "Labels that the open round needs at the present rate of disagreement; -1: unknown."
        )
        self.frozen = gauge("frozen", "1 while rounds are frozen (`semievol freeze`).")
        self.leader = gauge("leader", "1 while this process leads, 0 while it stands by.")
        self.waiting = gauge("waiting", "1 for what the controller waits for before the next round.", "what")
        self.alias_generation = gauge("alias_generation", "How often the alias was moved.")
        self.alias_followed = gauge(
            "alias_followed", "1 while the alias is followed; 0: the state is away, and what it named last serves."
        )
        self.serving = gauge("serving_adapter", "1 for the adapter that serves.", "adapter")
        self.replica_up = gauge(
            "replica_up", "1 for a replica that gets requests; else why it gets none.", "replica", "reason"
        )
        self.replica_attested = gauge(
            "replica_attested",
            "1 for an adapter that a replica proved; 0 for one that it failed.",
            "replica",
            "adapter",
        )
        self.replica_running = gauge("replica_running", "Requests of this process on a replica.", "replica")
        self.requests = counter("gateway_requests_total", "Gateway requests.", "code")
        self.token_requests = counter(
            "gateway_token_requests_total", "Requests at the gateway by the name of their token.", "token", "code"
        )
        self.latency = histogram("gateway_seconds", "Gateway requests, admission to answer.", LATENCY_BUCKETS)
        self.upstream_failures = counter(
            "gateway_upstream_failures_total", "Attempts that a replica failed.", "replica"
        )
        self.captured = counter("gateway_captured_total", "Client queries published to the queries topic.")
        self.capture_dropped = counter(
            "gateway_capture_dropped_total", "Client queries of the sampled share that were not captured.", "reason"
        )
        self.neutralised = counter(
            "neutralised_texts_total",
            "Requests, prompts and training rows in which text was kept from becoming control tokens.",
            "where",
        )
        self.retention_deleted = counter(
            "retention_deleted_total", "Rows that were deleted to keep the state small.", "what"
        )
        self._reported: dict[tuple[str, ...], float] = {}

    def advance(self, counter: Counter, total: float, *labels: str) -> None:
        """Bring a counter up to a total that somebody else counts."""
        key = (str(counter), *labels)
        step = total - self._reported.get(key, 0.0)
        if step > 0:
            counter.labels(self.workload, *labels).inc(step)
            self._reported[key] = total

    def stored(self, labels: Sequence[PseudoLabel]) -> None:
        """Labels that became durable; an infinite entropy (nothing parsed) lands in the last bucket."""
        for label in labels:
            self.entropy.labels(self.workload).observe(label.entropy)

    def forgotten(self, what: str, count: int) -> None:
        """Rows that retention deleted, by what they belonged to."""
        self.retention_deleted.labels(self.workload, what).inc(count)

    def show_rounds(self, counts: dict[str, int]) -> None:
        """Rounds by state, zero for the states nobody is in."""
        for state in RoundState:
            self.rounds.labels(self.workload, state.value).set(counts.get(state.value, 0))

    def show_gate(self, evaluation: Mapping[str, Any] | None) -> None:
        """The evidence in the open round; None: there is none, and what an earlier one had vanishes."""
        for gauge in (self.gate_evidence, self.gate_pairs, self.gate_needed):
            gauge.clear()
        if evaluation is None or "better" not in evaluation:
            return
        self.gate_evidence.labels(self.workload).set(evaluation["better"])
        needed = evaluation["labels_needed"]
        self.gate_needed.labels(self.workload).set(-1 if needed is None else needed)
        ties = evaluation["count"] - evaluation["wins"] - evaluation["losses"]
        for outcome, number in (("win", evaluation["wins"]), ("loss", evaluation["losses"]), ("tie", ties)):
            self.gate_pairs.labels(self.workload, outcome).set(number)

    def show_waiting(self, waits_for: str) -> None:
        """1 for what is waited for, 0 for all else."""
        for each in WAITING:
            self.waiting.labels(self.workload, each).set(each == waits_for)

    def show_serving(self, adapter: str | None) -> None:
        """The serving adapter alone carries a 1; older ones vanish."""
        self.serving.clear()
        self.serving.labels(self.workload, adapter or "base").set(1)

    def show_replicas(self, replicas: Sequence[ReplicaView]) -> None:
        """Replicas as they are now; those that are gone vanish."""
        for gauge in (self.replica_up, self.replica_attested, self.replica_running):
            gauge.clear()
        for replica in replicas:
            self.replica_up.labels(self.workload, replica.name, replica.reason).set(replica.state == "up")
            self.replica_running.labels(self.workload, replica.name).set(replica.running)
            for adapter, attestation in replica.adapters.items():
                self.replica_attested.labels(self.workload, replica.name, adapter).set(attestation.passed)

    def render(self) -> bytes:
        return generate_latest(self.registry)
