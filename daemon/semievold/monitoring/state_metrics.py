"""What the state holds, as metrics: the leader alone exports them, from memory.

Owns names and help texts; the numbers are read on a timer (`semievold.monitoring.state_watch`), so that a scrape asks
nothing of the database. Invariant: a process that does not lead exports none of these, however short a time ago it did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from semievol.proof.watch import Test
from semievold.drift.figures import KINDS, NOTHING, DriftFigures
from semievold.monitoring.catalogue import Declared
from semievold.monitoring.figures import Figures
from semievold.round_states import ENDED, RoundState
from semievold.rounds.planning.breaker import MEASURES
from semievold.store.pseudo_labels import LabelWindow
from semievold.store.review.items import PURPOSES, WAYS
from semievold.store.rollout.canaries import Version

WINDOW = 200
"""Of how many of the newest pseudo-labels the means are."""
STATES = tuple(state.value for state in RoundState)
OUTCOMES = tuple(state.value for state in RoundState if state in ENDED)
ADAPTER_STATES = ("candidate", "serving", "previous", "retired", "rejected", "deleted")
ROLES_AT_THE_GATE = ("incumbent", "candidate")
REVIEWED = (*PURPOSES, "contradiction")
PAIRS = ("win", "loss", "tie")
VERSIONS: tuple[str, ...] = get_args(Version)
TESTS: tuple[str, ...] = get_args(Test)
COUNTED: tuple[Test, ...] = ("errors", "parse_failures", "slow_answers")
"""What is counted of a canary's answers; the rest is the watch's."""
Values = Mapping[str, float] | float | None
"""By the value of the metric's label, or alone; None: there is nothing to show."""


@dataclass(frozen=True, slots=True)
class StateFigures:
    """All that was read at one moment.

    window: the newest pseudo-labels; training: the open round's progress.json, while it trains.
    review_open: items that wait for a person, by purpose; review_labels: those that were labelled, by way.
    disk_free, disk_size: bytes of the disk that has the artifacts; read_at: UTC seconds.
    """

    stored: Figures
    window: LabelWindow
    training: Mapping[str, Any] | None
    frozen: bool
    review_open: Mapping[str, int]
    review_labels: Mapping[str, int]
    disk_free: int
    disk_size: int
    read_at: float
    drift: DriftFigures = NOTHING


def gauge(name: str, text: str, **labels: tuple[str, ...]) -> Declared:
    return Declared(name, "gauge", text, ("leader",), labels)


SHOWN: tuple[tuple[Declared, Callable[[StateFigures], Values]], ...] = (
    (
        gauge("examples", "Labelled examples.", split=("training", "holdout")),
        lambda s: {"training": s.stored.training, "holdout": s.stored.holdout},
    ),
    (
        gauge("last_label_timestamp_seconds", "When an example was last added, changed or retracted."),
        lambda s: s.stored.last_label_at,
    ),
    (gauge("pseudo_labels", "Stored pseudo-labels."), lambda s: s.stored.labelled),
    (
        gauge("pseudo_labels_unparsed", "Stored pseudo-labels without an answer that parses."),
        lambda s: s.stored.unparsed,
    ),
    (
        gauge("predictions_unpublished", "Stored pseudo-labels whose prediction may not be published."),
        lambda s: s.stored.unpublished,
    ),
    (
        gauge("last_pseudo_label_timestamp_seconds", "When a query was last labelled."),
        lambda s: s.stored.last_pseudo_label_at,
    ),
    (
        gauge("recent_agreement", f"Mean agreement of the last {WINDOW} pseudo-labels."),
        lambda s: s.window.mean_agreement,
    ),
    (
        gauge("recent_entropy", f"Mean entropy of the last {WINDOW} pseudo-labels, nats per token."),
        lambda s: s.window.mean_entropy,
    ),
    (gauge("rounds", "Rounds by state.", state=STATES), lambda s: _each(STATES, s.stored.rounds)),
    (gauge("frozen", "1 while rounds are frozen (`semievol freeze`)."), lambda s: float(s.frozen)),
    (
        gauge("open_round", "Number of the open round; -1: none is open."),
        lambda s: -1.0 if s.stored.open_round is None else s.stored.open_round,
    ),
    (
        gauge("round_state_since_timestamp_seconds", "When the open round came into its state; absent without one."),
        lambda s: s.stored.open_since,
    ),
    (
        gauge("last_round_outcome", "1 for how the newest round that is over ended.", outcome=OUTCOMES),
        lambda s: {each: float(s.stored.last_outcome == each) for each in OUTCOMES},
    ),
    (
        gauge("last_round_ended_timestamp_seconds", "When it was over; absent while none is."),
        lambda s: s.stored.last_ended_at,
    ),
    (
        gauge("round_step_seconds", "How long the newest round was in each state that it has left.", state=STATES),
        lambda s: _each(STATES, s.stored.step_s),
    ),
    (
        gauge(
            "round_pool",
            "Pseudo-labels in the pool of the newest round, by whether it trains on them.",
            selected=("yes", "no"),
        ),
        lambda s: (
            None
            if s.stored.pool is None
            else {"yes": s.stored.selected or 0, "no": s.stored.pool - (s.stored.selected or 0)}
        ),
    ),
    (
        gauge(
            "certificate_labels_missing",
            "Calibration labels without which the newest round certifies nothing; absent where no number can be named.",
        ),
        lambda s: s.stored.labels_missing,
    ),
    (
        gauge("breaker_figure", "What the collapse breaker last measured in a round.", measure=MEASURES),
        lambda s: _breaker(s, "figure"),
    ),
    (
        gauge("breaker_bound", "The bound of each, at that time; absent where there is none.", measure=MEASURES),
        lambda s: _breaker(s, "bound"),
    ),
    (
        gauge("breaker_tripped", "1 for each bound for which the open round was stopped.", measure=MEASURES),
        lambda s: {each: float(each in s.stored.tripped) for each in MEASURES},
    ),
    (
        gauge("training_progress_ratio", "How much of the running training is done; absent without one."),
        lambda s: _progress(s.training),
    ),
    (
        gauge("training_loss", "Loss of the last step of the running training; absent without one."),
        lambda s: None if s.training is None else s.training.get("loss"),
    ),
    (
        gauge("holdout_accuracy", "Accuracy on the holdout at the last gate.", role=ROLES_AT_THE_GATE),
        lambda s: {role: s.stored.gate[f"{role}_accuracy"] for role in ROLES_AT_THE_GATE} if s.stored.gate else None,
    ),
    (
        gauge("gate_evidence", "Evidence (e-value) that the open round's candidate is better; absent without any."),
        lambda s: _gate(s).get("better"),
    ),
    (
        gauge("gate_pairs", "Labels that both models of the open round answered.", outcome=PAIRS),
        lambda s: _pairs(_gate(s)),
    ),
    (
        gauge(
            "gate_labels_needed", "Labels that the open round needs at the present rate of disagreement; -1: unknown."
        ),
        lambda s: _needed(_gate(s)),
    ),
    (
        gauge("canary_share", "Share of the clients that the version on trial answers; absent while none is."),
        lambda s: _canary(s, lambda record: record["shares"][record["stage"]]),
    ),
    (
        gauge("canary_stage", "Its stage, from 1; absent while none is on trial."),
        lambda s: _canary(s, lambda record: record["stage"] + 1),
    ),
    (
        gauge("canary_answers", "Counted answers of the version on trial, and of what serves.", version=VERSIONS),
        lambda s: _canary(
            s, lambda record: {"canary": record.get("total", 0), "incumbent": record.get("incumbent", 0)}
        ),
    ),
    (
        gauge("canary_evidence_ratio", "Evidence against the version on trial, as a share of the alarm.", test=COUNTED),
        lambda s: _canary(s, _against),
    ),
    (
        gauge("watch_pairs", "Live queries that both versions of the open round answered.", differ=("yes", "no")),
        lambda s: _compared(s.stored.watch),
    ),
    (
        gauge(
            "watch_evidence",
            "Evidence (e-value) against the open round's version, by test; the watch ends at 1000, of accuracy at 20.",
            test=TESTS,
        ),
        lambda s: _watched(s.stored.watch),
    ),
    (
        gauge("adapters", "Adapters by state.", state=ADAPTER_STATES),
        lambda s: _each(ADAPTER_STATES, s.stored.adapters),
    ),
    (
        gauge("alias_moved_timestamp_seconds", "When the alias was last moved; absent while it never was."),
        lambda s: s.stored.alias_moved_at,
    ),
    (
        gauge("operator_requests_pending", "Requests of operators that are not answered yet."),
        lambda s: s.stored.requests_pending,
    ),
    (
        gauge(
            "drift_statistic",
            "Evidence of drift; at drift_alarm_line an alarm. Absent without a reference.",
            kind=KINDS,
        ),
        lambda s: {k: each.statistic for k, each in s.drift.kinds.items() if each.statistic is not None} or None,
    ),
    (
        gauge("drift_alarm_line", "The evidence that is an alarm (drift.false_alarm_every).", kind=KINDS),
        lambda s: {k: each.alarm_line for k, each in s.drift.kinds.items() if each.alarm_line is not None} or None,
    ),
    (
        gauge("drift_category_statistic", "The same evidence, of the category that has the most.", kind=KINDS),
        lambda s: (
            {k: f.category_statistic for k, f in s.drift.kinds.items() if f.category_statistic is not None} or None
        ),
    ),
    (
        gauge(
            "drift_watched", "1 while a kind of drift is watched; 0: it has no reference, or is alarmed.", kind=KINDS
        ),
        lambda s: {kind: float(kind in s.drift.kinds and s.drift.kinds[kind].phase == "watching") for kind in KINDS},
    ),
    (
        gauge("drift_events", "Drift events so far, by the kind that was alarmed first.", kind=KINDS),
        lambda s: _each(KINDS, s.drift.events),
    ),
    (gauge("drift_open", "1 while an event waits for a new reference."), lambda s: float(s.drift.is_open)),
    (
        gauge(
            "accuracy_by_labels",
            "Accuracy on late labels with its interval of 95 %, prediction-powered; absent without any.",
            bound=("low", "estimate", "high"),
        ),
        lambda s: (
            {b: found[b] for b in ("low", "estimate", "high")} if (found := s.drift.accuracy.get("by_labels")) else None
        ),
    ),
    (
        gauge("accuracy_without_labels", "Accuracy estimated by confidence alone; see accuracy_without_labels_valid."),
        lambda s: s.drift.accuracy.get("without_labels"),
    ),
    (
        gauge("accuracy_without_labels_valid", "1 while inputs are watched and quiet: only then the estimate holds."),
        lambda s: float(s.drift.inputs_quiet),
    ),
    (
        gauge("review_items", "Items that wait for a person's label.", purpose=REVIEWED),
        lambda s: _each(REVIEWED, s.review_open),
    ),
    (
        gauge("review_labels", "Items that were labelled, by the way of the label.", by=WAYS),
        lambda s: _each(WAYS, s.review_labels),
    ),
    (gauge("disk_free_bytes", "Free on the disk that has the artifacts."), lambda s: s.disk_free),
    (gauge("disk_size_bytes", "Size of the disk that has the artifacts."), lambda s: s.disk_size),
    (
        gauge("state_read_timestamp_seconds", "When the figures of the state were read."),
        lambda s: s.read_at,
    ),
)
STATE_METRICS = tuple(declared for declared, _ in SHOWN)


class StateMetrics(Collector):
    """Exports what it was shown last, while this process leads."""

    def __init__(self, workload: str, leads: Callable[[], bool]) -> None:
        self._workload = workload
        self._leads = leads
        self._seen: StateFigures | None = None

    def show(self, seen: StateFigures | None) -> None:
        """From now on these; None: nothing."""
        self._seen = seen

    def describe(self) -> Iterable[Metric]:
        """Names alone: the registry asks for them before there is anything to show."""
        return [GaugeMetricFamily(declared.full_name, declared.text) for declared in STATE_METRICS]

    def collect(self) -> Iterator[Metric]:
        seen = self._seen
        if seen is None or not self._leads():
            return
        for declared, shown in SHOWN:
            values = shown(seen)
            if values is None:
                continue
            family = GaugeMetricFamily(declared.full_name, declared.text, labels=["workload", *declared.labels])
            for label, value in values.items() if isinstance(values, Mapping) else ((None, values),):
                family.add_metric([self._workload] if label is None else [self._workload, label], value)
            yield family


def _each(names: tuple[str, ...], found: Mapping[str, float]) -> dict[str, float]:
    return {name: found.get(name, 0.0) for name in names}


def _breaker(seen: StateFigures, part: str) -> dict[str, float]:
    found = {name: each[part] for name, each in seen.stored.breaker.items() if name in MEASURES}
    return {name: value for name, value in found.items() if value is not None}


def _progress(training: Mapping[str, Any] | None) -> float | None:
    return training["step"] / training["total_steps"] if training and training.get("total_steps") else None


def _compared(watch: Mapping[str, Any]) -> dict[str, float] | None:
    return {"yes": watch["differ"], "no": watch["pairs"] - watch["differ"]} if watch else None


def _watched(watch: Mapping[str, Any]) -> dict[str, float] | None:
    """The most that any test of a name has found."""
    found: dict[str, float] = {}
    for each in watch.get("findings", ()):
        found[each["test"]] = max(each["evidence"], found.get(each["test"], 0.0))
    return found or None


def _gate(seen: StateFigures) -> Mapping[str, Any]:
    """What the open round's gate saw; empty without, and of rounds before its evidence was kept."""
    stored = seen.stored
    gate = stored.gate if stored.open_round is not None and stored.gate_round == stored.open_round else {}
    return gate if "better" in gate else {}


def _canary(seen: StateFigures, shown: Callable[[Mapping[str, Any]], Values]) -> Values:
    return shown(seen.stored.canary) if seen.stored.canary else None


def _against(record: Mapping[str, Any]) -> dict[str, float]:
    """By test, the most; 1 is a breach."""
    most: dict[str, float] = dict.fromkeys(COUNTED, 0.0)
    for each in record.get("findings", ()):
        most[each["test"]] = max(most[each["test"]], each["evidence"] / each["alarm"])
    return most


def _pairs(gate: Mapping[str, Any]) -> dict[str, float] | None:
    if not gate:
        return None
    wins, losses = gate["wins"], gate["losses"]
    return {"win": wins, "loss": losses, "tie": gate["count"] - wins - losses}


def _needed(gate: Mapping[str, Any]) -> float | None:
    if not gate:
        return None
    return -1.0 if gate["labels_needed"] is None else gate["labels_needed"]
