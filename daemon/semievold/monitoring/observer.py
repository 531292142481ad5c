"""Turns what the roles of this process count into metrics and readiness, when somebody asks.

Owns no numbers of its own. Called at scrape time, so that an idle daemon does nothing; it reads memory alone.
"""

from __future__ import annotations

from typing import Any

from semievol.engines.plain.tally import NEUTRALISED
from semievold.intake.counters import IntakeCounters, LabelsCounters
from semievold.intake.labels import LabelsIntake
from semievold.intake.role import Intake
from semievold.monitoring.metrics import Metrics
from semievold.retry import Health
from semievold.rounds.control import Control
from semievold.rounds.lease import ControlLease
from semievold.serving.alias import Alias
from semievold.serving.fleet import AdapterFleet
from semievold.serving.following import StateFollower
from semievold.serving.replicas import ReplicaSet


class Observer:
    """Looks at one process of the daemon."""

    def __init__(
        self,
        metrics: Metrics,
        alias: Alias,
        *,
        fleet: AdapterFleet | None = None,
        follower: StateFollower | None = None,
        intake: Intake | None = None,
        labels: LabelsIntake | None = None,
        control: Control | None = None,
        lease: ControlLease | None = None,
        replicas: ReplicaSet | None = None,
        captured: Health | None = None,
    ) -> None:
        """Look at nothing yet; `captured` says whether the stream takes what the gateway captures."""
        self._metrics = metrics
        self._alias = alias
        self._fleet = fleet
        self._follower = follower
        self._intake = intake
        self._labels = labels
        self._control = control
        self._lease = lease
        self._replicas = replicas
        self._captured = captured

    def missing(self) -> dict[str, str]:
        """What keeps the process from being ready, by part; empty when it is (a standby is ready)."""
        found = {
            "adapter": (self._fleet and self._fleet.defect) or (self._follower and self._follower.defect),
            "intake": self._intake and (self._intake.counters.degraded or self._intake.stuck),
            "labels": self._labels and (self._labels.counters.degraded or self._labels.pulse.stuck),
            "control": self._control and (self._control.last_error or self._control.pulse.stuck),
            "lease": self._lease and self._lease.problem,
        }
        return {part: str(problem) for part, problem in found.items() if problem}

    def held(self) -> dict[str, str]:
        """What stands still although this process works, by part, and what it waits for. A gateway is ready without the
        state and the stream: one outage of theirs would take all gateways away from their clients.
        """
        found = {"intake": self._intake and self._intake.held, "labels": self._labels and self._labels.held}
        if self._follower is not None and self._follower.away is not None:
            serving = self._alias.adapter or "the base model"
            found["alias"] = f"it stands for {serving} still, and cannot be followed: {self._follower.away}"
        if self._captured is not None and self._captured.degraded is not None:
            found["capture"] = f"captured queries wait for the stream: {self._captured.degraded}"
        if self._replicas is not None:
            found["replicas"] = self._replicas.resting
        if self._control is not None and self._control.waits_for not in ("round", "pseudo_labels", "interval", "worth"):
            found["rounds"] = self._control.waiting_for
        return {part: str(reason) for part, reason in found.items() if reason}

    def process(self) -> dict[str, Any]:
        """What is to be known of this very process: whether it leads, what the controller waits for, how many queries
        wait for its intake (None: it has none), how many texts it kept from becoming control tokens, by place.
        """
        waiting = None if self._intake is None else self._intake.counters.lag
        told: dict[str, Any] = {"queries_waiting": waiting, "neutralised": dict(NEUTRALISED.counts())}
        if self._control is None:
            return {"leader": False, **told}
        return {"leader": self._control.leads, "waiting_for": self._control.waiting_for, **told}

    def observe(self) -> None:
        """Bring what this process counts up to date."""
        m = self._metrics
        if self._intake is not None:
            self._count_intake(self._intake.counters)
            m.held.labels(m.workload, "intake").set(self._intake.held is not None)
        if self._labels is not None:
            self._count_labels(self._labels.counters)
            m.held.labels(m.workload, "labels").set(self._labels.held is not None)
        if self._control is not None:
            m.leader.labels(m.workload).set(self._control.leads)
            m.show_waiting(self._control.waits_for)
            for fate, total in self._control.pair_fates.items():
                m.advance(m.shadow_pairs, total, fate.value)
            if (worth := self._control.worth) is not None:
                m.trigger_points.labels(m.workload, "gain").set(worth.gain_points)
                m.trigger_points.labels(m.workload, "cost").set(worth.cost_points)
        self._count_neutralised()
        m.alias_generation.labels(m.workload).set(self._alias.state.generation)
        m.show_serving(self._alias.adapter)
        if self._follower is not None:
            m.alias_followed.labels(m.workload).set(self._follower.away is None)
        if self._replicas is not None:
            m.show_replicas(self._replicas.show())

    def _count_intake(self, seen: IntakeCounters) -> None:
        m = self._metrics
        m.advance(m.received, seen.received)
        m.advance(m.labelled, seen.labelled)
        m.advance(m.duplicates, seen.duplicates)
        m.advance(m.retries, seen.retries, "intake")
        for reason, total in seen.dead_letters.items():
            m.advance(m.dead_letters, total, "intake", str(reason))
        m.in_flight.labels(m.workload).set(seen.in_flight)
        m.lag.labels(m.workload, "intake").set(seen.lag)

    def _count_neutralised(self) -> None:
        for where, total in NEUTRALISED.counts().items():
            self._metrics.advance(self._metrics.neutralised, total, where)

    def _count_labels(self, seen: LabelsCounters) -> None:
        m = self._metrics
        m.advance(m.labels_received, seen.received)
        m.advance(m.joined, seen.joined_right, "yes")
        m.advance(m.joined, seen.joined_wrong, "no")
        m.advance(m.feedback_joined, seen.feedback_right, "yes")
        m.advance(m.feedback_joined, seen.feedback_wrong, "no")
        m.advance(m.reviewed, seen.reviewed, "contradiction")
        for outcome, total in seen.feedback.items():
            m.advance(m.feedback, total, outcome.value)
        m.advance(m.retries, seen.retries, "labels")
        for reason, total in seen.dead_letters.items():
            m.advance(m.dead_letters, total, "labels", str(reason))
        m.lag.labels(m.workload, "labels").set(seen.lag)
