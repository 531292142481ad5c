"""What `semievold sync-adapters` counts, as Prometheus metrics on a registry of its own.

Owns names and help texts. Its process serves no workload, so its series have no such label.
"""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics

from semievold.monitoring.catalogue import Declared, Kind
from semievold.serving.storage.sync import Look

SIDECAR = ("sync-adapters",)


def _declared(name: str, kind: Kind, text: str) -> Declared:
    return Declared(name, kind, text, SIDECAR, {})


HERE = _declared("sync_adapters", "gauge", "Adapters that lie in the local directory, whole.")
FETCHED = _declared("sync_fetched_total", "counter", "Adapters fetched from object storage.")
REMOVED = _declared("sync_removed_total", "counter", "Adapters removed here since they are published no more.")
REFUSED = _declared("sync_refused_total", "counter", "Downloads refused: not the bytes that were published.")
FAILED = _declared("sync_failed_looks_total", "counter", "Looks at which the storage did not answer.")
LOOKED = _declared(
    "sync_last_look_timestamp_seconds", "gauge", "When it last looked and the storage answered; 0: never."
)
SYNC_METRICS = (HERE, FETCHED, REMOVED, REFUSED, FAILED, LOOKED)


class SyncMetrics:
    """The counts of one process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._here, self._looked = (self._gauge(each) for each in (HERE, LOOKED))
        counters = (self._counter(each) for each in (FETCHED, REMOVED, REFUSED, FAILED))
        self._fetched, self._removed, self._refused, self._failed = counters

    def looked(self, look: Look) -> None:
        self._here.set(len(look.here))
        self._fetched.inc(len(look.fetched))
        self._removed.inc(len(look.removed))
        self._refused.inc(len(look.refused))
        self._looked.set(time.time())

    def failed(self) -> None:
        self._failed.inc()

    def _gauge(self, declared: Declared) -> Gauge:
        return Gauge(declared.full_name, declared.text, registry=self.registry)

    def _counter(self, declared: Declared) -> Counter:
        return Counter(declared.full_name, declared.text, registry=self.registry)
