"""Turns what the roles count and the state holds into metrics and readiness, when somebody asks.

Owns no numbers of its own. Called at scrape time, so that an idle daemon does nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from daemon.adapters import AdapterFleet
from daemon.alias import Alias
from daemon.control import Control
from daemon.intake import Intake
from daemon.labels import LabelsIntake
from daemon.metrics import Metrics
from daemon.replicas import ReplicaSet
from daemon.store.stores import Stores

WINDOW = 200


class Observer:
    """Looks at one process of the daemon."""

    def __init__(
        self,
        metrics: Metrics,
        stores: Stores,
        alias: Alias,
        fleet: AdapterFleet,
        intake: Intake,
        labels: LabelsIntake,
        control: Control,
        roles: frozenset[str],
        replicas: ReplicaSet | None = None,
    ) -> None:
        self._metrics = metrics
        self._stores = stores
        self._alias = alias
        self._fleet = fleet
        self._intake = intake
        self._labels = labels
        self._control = control
        self._roles = roles
        self._replicas = replicas

    def missing(self) -> dict[str, str]:
        """What keeps the process from being ready, by part; empty when it is."""
        missing: dict[str, str] = {}
        if self._fleet.defect:
            missing["adapter"] = self._fleet.defect
        if "intake" in self._roles and self._intake.counters.degraded:
            missing["intake"] = self._intake.counters.degraded
        if "labels" in self._roles and self._labels.counters.degraded:
            missing["labels"] = self._labels.counters.degraded
        if "control" in self._roles and self._control.last_error:
            missing["control"] = self._control.last_error
        return missing

    async def observe(self) -> None:
        """Bring every metric up to date."""
        self._count_intake()
        self._count_labels()
        await self._show_state()

    def _count_intake(self) -> None:
        m, seen = self._metrics, self._intake.counters
        m.advance(m.received, seen.received)
        m.advance(m.labelled, seen.labelled)
        m.advance(m.duplicates, seen.duplicates)
        m.advance(m.retries, seen.retries, "intake")
        for reason, total in seen.dead_letters.items():
            m.advance(m.dead_letters, total, "intake", str(reason))
        m.in_flight.labels(m.workload).set(seen.in_flight)
        m.lag.labels(m.workload, "intake").set(seen.lag)

    def _count_labels(self) -> None:
        m, seen = self._metrics, self._labels.counters
        m.advance(m.labels_received, seen.received)
        m.advance(m.joined, seen.joined_right, "yes")
        m.advance(m.joined, seen.joined_wrong, "no")
        m.advance(m.retries, seen.retries, "labels")
        for reason, total in seen.dead_letters.items():
            m.advance(m.dead_letters, total, "labels", str(reason))
        m.lag.labels(m.workload, "labels").set(seen.lag)

    async def _show_state(self) -> None:
        m, stores = self._metrics, self._stores
        examples = await asyncio.to_thread(stores.examples.counts)
        m.examples.labels(m.workload, "training").set(examples.training)
        m.examples.labels(m.workload, "holdout").set(examples.holdout)
        m.pool.labels(m.workload).set((await asyncio.to_thread(stores.pseudo_labels.counts)).total)
        window = await asyncio.to_thread(stores.pseudo_labels.window, WINDOW)
        if window.mean_agreement is not None:
            m.agreement.labels(m.workload).set(window.mean_agreement)
        if window.mean_entropy is not None:
            m.recent_entropy.labels(m.workload).set(window.mean_entropy)
        rounds = await asyncio.to_thread(stores.rounds.all)
        m.show_rounds(Counter(round_.state.value for round_ in rounds))
        last = next((round_.evaluation for round_ in rounds if round_.evaluation), None)
        if last is not None:
            m.round_accuracy.labels(m.workload, "incumbent").set(last["incumbent_accuracy"])
            m.round_accuracy.labels(m.workload, "candidate").set(last["candidate_accuracy"])
        m.alias_generation.labels(m.workload).set(self._alias.state.generation)
        m.show_serving(self._alias.adapter)
        if self._replicas is not None:
            m.show_replicas(self._replicas.show())
