"""What a process counts of its own work, as Prometheus metrics on a registry of its own.

Owns names, help texts and labels; whoever does the work calls the methods. What the state holds is exported by the
leader alone (`semievold.monitoring.state_metrics`). Label values are closed sets (reasons, states, roles) or names of
adapters, replicas and tokens, of which a process holds few; never a query id.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeVar, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from semievol.engines.plain.tally import PLACES
from semievol.types import PseudoLabel
from semievold.config.daemon import ROLES
from semievold.errors import Dropped, Reason
from semievold.monitoring.catalogue import PREFIX, Declared, Kind, Labels
from semievold.rounds.planning.trigger import WAITS_FOR
from semievold.rounds.retention import What
from semievold.serving.replica import ReplicaView
from semievold.store.feedback import Outcome
from semievold.store.shadow_pairs import PairFate
from semievold.store.waiting_feedback import Standing

M = TypeVar("M", Counter, Histogram)

ENTROPY_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
AGREEMENT_BUCKETS = (0.25, 0.5, 0.7, 0.9, 0.99)
DELAY_BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0)
LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WAITING = ("start", "lease", "round", "evidence", "approval", "canary", "answers", "frozen", *WAITS_FOR)
"""What a controller can wait for; `round`: for the open one; `evidence`: for labels that prove its candidate;
`approval`: for a person's word for it; `canary`: for the time of a canary's stage; `answers`: for more of its answers,
or of what serves beside it; `frozen`: for the end of a freeze."""
REPLICA_STATES = ("up", "leaving", "warming", "quarantined", "asleep", "down")
ANSWERS = ("answered", "failed", "gone", "resting")
"""What becomes of an admitted request; `gone`: the client did not wait."""
YES_NO = ("yes", "no")
SIDES = ("gain", "cost")
A_REPLICA, AN_ADAPTER, A_CODE = "address of a replica", "name of an adapter, or base", "HTTP status; 499: client gone"
READERS = ("intake", "labels")
ENGINES = ("intake", "control", "gateway")
INTAKE, LABELS, CONTROL, GATEWAY, EVERYONE = ("intake",), ("labels",), ("control",), ("gateway",), ()


class Metrics:
    """The daemon's metrics; one instance a process."""

    def __init__(self, workload: str) -> None:
        # Without a series more for each counter, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.workload = workload
        self.declared: list[Declared] = []
        self._at_zero: list[tuple[Declared, Counter | Histogram]] = []
        self._reported: dict[tuple[str, ...], float] = {}
        self._known: dict[tuple[Counter | Histogram, tuple[str, ...]], Any] = {}
        self._add_intakes()
        self._add_labels()
        self._add_serving()
        self._add_gateway()
        self._add_control()

    def _add_intakes(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.received = counter("intake_received_total", "Query records read from the stream.", INTAKE)
        self.labelled = counter("intake_labelled_total", "Queries whose pseudo-label became durable.", INTAKE)
        self.unparsed = counter("intake_unparsed_total", "Of these, queries without an answer that parses.", INTAKE)
        self.duplicates = counter("intake_duplicates_total", "Redelivered queries that were labelled already.", INTAKE)
        self.in_flight = gauge("intake_in_flight", "Query records read and not yet committed.", INTAKE)
        self.delay = histogram(
            "intake_delay_seconds",
            "From a query's record in the stream, or the end of a hold, to its durable pseudo-label.",
            DELAY_BUCKETS,
            INTAKE,
        )
        self.entropy = histogram(
            "pseudo_label_entropy", "Entropy of new pseudo-labels, nats per token.", ENTROPY_BUCKETS, INTAKE
        )
        self.agreement = histogram(
            "pseudo_label_agreement",
            "Agreement of new pseudo-labels: the share of candidate answers that mean the same.",
            AGREEMENT_BUCKETS,
            INTAKE,
        )
        self.dead_letters = counter(
            "dead_letters_total",
            "Records sent to the dead-letter topic.",
            READERS,
            role=READERS,
            reason=tuple(each.value for each in Reason),
        )
        self.retries = counter(
            "retries_total", "Batches tried again because a component did not answer.", READERS, role=READERS
        )
        self.lag = gauge("stream_lag", "Records not yet committed by this consumer.", READERS, role=READERS)
        self.held = gauge(
            "stream_held", "1 while a role does not read on purpose or cannot, 0 while it reads.", READERS, role=READERS
        )

    def _add_labels(self) -> None:
        counter = self._counter
        self.labels_received = counter("labels_received_total", "Label records read from the stream.", LABELS)
        self.joined = counter(
            "labels_joined_total",
            "Labels of queries answered earlier, by whether that was right.",
            LABELS,
            correct=YES_NO,
        )
        self.feedback = counter(
            "feedback_total",
            "Clients' answers by what became of them.",
            LABELS,
            outcome=tuple(each.value for each in Outcome),
        )
        self.reviewed = counter(
            "review_total", "Items published to the review topic.", LABELS, purpose=("contradiction",)
        )
        self.feedback_joined = counter(
            "feedback_joined_total", "Clients' answers beside the earlier one.", LABELS, correct=YES_NO
        )

    def _add_serving(self) -> None:
        gauge = self._gauge
        self.role = gauge("role", "1 for each role that this process has.", EVERYONE, role=ROLES)
        self.neutralised = self._counter(
            "neutralised_texts_total",
            "Requests, prompts and training rows in which text was kept from becoming control tokens.",
            EVERYONE,
            where=PLACES,
        )
        self.alias_generation = gauge("alias_generation", "How often the alias was moved.", EVERYONE)
        self.serving = gauge("serving_adapter", "1 for the adapter that serves.", EVERYONE, adapter=AN_ADAPTER)
        self.alias_followed = gauge(
            "alias_followed",
            "1 while the alias is followed; 0: the state is away, and what it named last serves.",
            ENGINES,
        )
        self.replica_state = gauge(
            "replica_state",
            "1 for the state of a replica; it gets requests while it is up.",
            ENGINES,
            replica=A_REPLICA,
            state=REPLICA_STATES,
        )
        self.replica_attested = gauge(
            "replica_attested",
            "1 for an adapter that a replica proved; 0 for one that it failed.",
            ENGINES,
            replica=A_REPLICA,
            adapter=AN_ADAPTER,
        )
        self.replica_running = gauge(
            "replica_running", "Requests of this process on a replica.", ENGINES, replica=A_REPLICA
        )

    def _add_gateway(self) -> None:
        counter = self._counter
        self.requests = counter("gateway_requests_total", "Gateway requests.", GATEWAY, code=A_CODE)
        self.token_requests = counter(
            "gateway_token_requests_total",
            "Requests at the gateway by the name of their token.",
            GATEWAY,
            token="name of a token",
            code=A_CODE,
        )
        self.answers = counter(
            "gateway_answers_total",
            "Admitted requests to a model, by what became of them; a client's mistake (4xx) is none. Resting: told to "
            "come back after a training on the engine's GPU.",
            GATEWAY,
            outcome=ANSWERS,
        )
        self.versions = counter(
            "gateway_version_answers_total",
            "Admitted requests to a model by the version that was asked; what a version on trial does not answer is "
            "asked of two.",
            GATEWAY,
            adapter=AN_ADAPTER,
            outcome=ANSWERS,
        )
        self.latency = self._histogram(
            "gateway_seconds", "Gateway requests, admission to answer.", LATENCY_BUCKETS, GATEWAY
        )
        self.upstream_failures = counter(
            "gateway_upstream_failures_total", "Attempts that a replica failed.", GATEWAY, replica=A_REPLICA
        )
        self.captured = counter("gateway_captured_total", "Client queries published to the queries topic.", GATEWAY)
        self.capture_dropped = counter(
            "gateway_capture_dropped_total",
            "Client queries of the sampled share that were not captured.",
            GATEWAY,
            reason=tuple(each.value for each in Dropped),
        )
        self.feedback_standing = counter(
            "feedback_received_total",
            "Clients' words at the gateway: joined to their query at once or later, pending, refused, expired.",
            GATEWAY,
            standing=tuple(each.value for each in Standing),
        )

    def _add_control(self) -> None:
        self.leader = self._gauge("leader", "1 while this process leads, 0 while it stands by.", CONTROL)
        self.trigger_points = self._gauge(
            "trigger_points",
            "With `trigger.kind: worth`, points of accuracy that the next round is expected to bring and to cost.",
            CONTROL,
            side=SIDES,
        )
        self.waiting = self._gauge(
            "waiting", "1 for what the controller waits for before the next round.", CONTROL, what=WAITING
        )
        self.shadow_pairs = self._counter(
            "shadow_pairs_total",
            "Live queries that were drawn to be answered by both versions, by what became of them: answered, above "
            "shadow.per_second, not in time, refused by the engine.",
            CONTROL,
            outcome=tuple(each.value for each in PairFate),
        )
        self.retention_deleted = self._counter(
            "retention_deleted_total", "Rows that were deleted to keep the state small.", CONTROL, what=get_args(What)
        )

    def begin(self, roles: Collection[str]) -> None:
        """Show what these roles count at zero: the first event is then an increase, which rules can see."""
        for declared, metric in self._at_zero:
            if declared.by and not set(declared.by) & set(roles):
                continue
            for labels in declared.series():
                if labels.get("role", "") in ("", *roles):
                    metric.labels(self.workload, *labels.values())
        for role in ROLES:
            self.role.labels(self.workload, role).set(role in roles)

    def advance(self, counter: Counter, total: float, *labels: str) -> None:
        """Bring a counter up to a total that somebody else counts."""
        key = (str(counter), *labels)
        step = total - self._reported.get(key, 0.0)
        if step > 0:
            counter.labels(self.workload, *labels).inc(step)
            self._reported[key] = total

    def stored(self, labels: Sequence[PseudoLabel], waited_s: Sequence[float]) -> None:
        """Labels that became durable, and how long their queries had waited for them, seconds.

        An infinite entropy (nothing parsed) lands in the last bucket.
        """
        # The series are looked up once a batch: that costs as much as what is told them of a label.
        entropy, agreement, delay = (each.labels(self.workload) for each in (self.entropy, self.agreement, self.delay))
        for label in labels:
            entropy.observe(label.entropy)
            agreement.observe(label.agreement)
        for seconds in waited_s:
            delay.observe(seconds)
        if unparsed := sum(label.answer is None for label in labels):
            self.unparsed.labels(self.workload).inc(unparsed)

    def ended(self, holder: str, code: str, seconds: float) -> None:
        """A request at the gateway, of a token's holder, and how long it took."""
        self._series(self.requests, code).inc()
        self._series(self.token_requests, holder, code).inc()
        self._series(self.latency).observe(seconds)

    def answered(self, status: int, *, resting: bool = False) -> None:
        """What became of an admitted request; `resting`: it was sent away because all replicas rest, as is wanted."""
        if (outcome := _outcome(status, resting)) is not None:
            self._series(self.answers, outcome).inc()

    def answered_by(self, adapter: str | None, status: int, *, resting: bool = False) -> None:
        """The same of the version that was asked; None: the base model."""
        if (outcome := _outcome(status, resting)) is not None:
            self._series(self.versions, adapter or "base", outcome).inc()

    def forgotten(self, what: What, count: int) -> None:
        """Rows that retention deleted, by what they belonged to."""
        self.retention_deleted.labels(self.workload, what).inc(count)

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
        for gauge in (self.replica_state, self.replica_attested, self.replica_running):
            gauge.clear()
        for replica in replicas:
            for state in REPLICA_STATES:
                self.replica_state.labels(self.workload, replica.name, state).set(replica.state == state)
            self.replica_running.labels(self.workload, replica.name).set(replica.running)
            for adapter, attestation in replica.adapters.items():
                self.replica_attested.labels(self.workload, replica.name, adapter).set(attestation.passed)

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def _series(self, metric: M, *labels: str) -> M:
        """One series of a metric of which none is ever taken back; kept, for each request counts in five of them, and
        to look one up costs more than to count.
        """
        key = (metric, labels)
        if key not in self._known:
            self._known[key] = metric.labels(self.workload, *labels)
        found: M = self._known[key]
        return found

    # --- declaring ----------------------------------------------------------------------------------------------

    def _declare(self, name: str, kind: Kind, text: str, by: tuple[str, ...], labels: Labels) -> Declared:
        self.declared.append(Declared(name, kind, text, by, labels))
        return self.declared[-1]

    def _counter(self, name: str, text: str, by: tuple[str, ...], **labels: tuple[str, ...] | str) -> Counter:
        made = Counter(PREFIX + name, text, ["workload", *labels], registry=self.registry)
        self._at_zero.append((self._declare(name, "counter", text, by, labels), made))
        return made

    def _gauge(self, name: str, text: str, by: tuple[str, ...], **labels: tuple[str, ...] | str) -> Gauge:
        self._declare(name, "gauge", text, by, labels)
        return Gauge(PREFIX + name, text, ["workload", *labels], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], by: tuple[str, ...]) -> Histogram:
        made = Histogram(PREFIX + name, text, ["workload"], buckets=buckets, registry=self.registry)
        self._at_zero.append((self._declare(name, "histogram", text, by, {}), made))
        return made


def _outcome(status: int, resting: bool) -> str | None:
    """4xx is the client's own mistake, 429 that no replica had room."""
    if resting and status >= 500:
        return "resting"
    if 400 <= status < 499 and status != 429:
        return None
    return "answered" if status < 400 else "gone" if status == 499 else "failed"
