"""What happens in the run: a promotion, a rollback, a drift, and all else that a panel, a rule or an alert asks about.

Owns the order of it. Each step waits until the state shows it, and then for a scrape or two, so that a Prometheus has
seen it.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from semievol.config.file import load_config
from semievold.config.daemon import DaemonConfig
from semievold.store.stores import open_stores
from semievold.streams.opening import open_stream
from semievold.streams.protocol import OutgoingRecord
from tests.control_world import ANSWERS
from tests.daemon_process import TOKEN, DaemonProcess, tiny_config
from tests.servers import free_port
from tests.servers.prometheus import Prometheus
from tests.watched_run.replica import Replica

SCRIPT = Path(__file__).parent / "daemon.py"
SCRAPE_S = 1.0
SEEN_S = 2.5
"""Two scrapes and a half."""
FREEZE_S = 12.0
"""Marks of a freeze look every ten seconds."""
WATCH_S = 20.0
"""The first version is watched while queries and labels come; the second one is taken back within it."""
PATIENCE_S = 120.0
EXAMPLES, QUERIES, LABELS, DRIFTED = 240, 120, 60, 150


@dataclass(frozen=True)
class Watched:
    """A run that is over, and what still answers: Prometheus, and the processes as they were left."""

    prometheus: Prometheus
    start: float
    end: float
    daemon: DaemonProcess
    sidecar_url: str


def config_of(directory: Path, replicas: list[Replica], storage: str) -> Path:
    """All of the daemon at once, and as impatient as it can be."""
    (directory / "model").mkdir()  # no tiny model is made: the replicas answer
    return tiny_config(
        directory,
        task={"labels": list(ANSWERS), "max_answer_tokens": 8},
        model={"name": "none", "dtype": "float32"},
        generation={"kind": "vllm", "replicas": [each.url for each in replicas], "watch_interval_s": 0.5},
        labelling={
            "configurations": [{"name": "greedy", "temperature": 0.0, "neighbours": 2}],
            "justify": False,
        },
        selection={"theta": 0.5, "min_agreement": 0.0, "risk": {"budget": 0.4}},
        labels={"holdout_share": 0.3, "lag_interval_s": 1.0},
        gate={"alpha": 0.05, "min_holdout": 20, "patience_s": 60.0},
        trigger={"kind": "worth", "worth": {"points_per_hour": 1e6}, "min_examples": 20, "labels_quiet_s": 1.0},
        rollout={"canary": [0.5], "canary_min_s": 4.0, "canary_min_answers": 5, "watch_s": WATCH_S},
        shadow={"share": 1.0, "per_second": 50.0},
        # All runs by one clock here: nothing has to settle for a minute before the watch of drift reads it.
        drift={"false_alarm_every": 5000, "reference": 50, "reference_labels": 20, "look_s": 0.5, "settled_s": 0.5},
        review={"interval_s": 1.0},
        intake={"lag_interval_s": 1.0},
        api={"port": free_port(), "token": TOKEN, "metrics_interval_s": 0.5},
        gateway={"port": 0, "token": TOKEN, "capture": {"share": 0.3}},
        artifacts={"directory": str(directory / "data"), "storage": storage},
    )


def question(number: int) -> str:
    return f"is {number} even?"


class Clients:
    """Somebody who asks the gateway again and again under other names, now and then what is refused."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._daemon = daemon
        self._stop = threading.Event()
        self.captured: list[tuple[str, int]] = []
        """Ids of queries that were captured, and their numbers."""

    @contextmanager
    def asking(self) -> Iterator[None]:
        thread = threading.Thread(target=self._ask_on, name="clients")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _ask_on(self) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = self._daemon.url("gateway") + "/v1/chat/completions"
        with httpx.Client(headers=headers, timeout=30.0) as client:
            for number in itertools.count(100_000):
                if self._stop.wait(0.1):
                    return
                body = {
                    "model": "tiny",
                    "messages": [{"role": "user", "content": question(number)}],
                    "user": f"user {number % 40}",
                    "max_tokens": 8,
                }
                with suppress(httpx.TransportError):
                    answer = client.post(url, json=body)
                    if name := answer.headers.get("x-semievol-query-id"):
                        self.captured.append((name, number))
                    if number % 20 == 0:
                        client.post(url, json=body, headers={"Authorization": "Bearer no-token-of-anybody"})
                        client.post(url, json={**body, "max_tokens": -1})


class Story:
    """One daemon and its two replicas."""

    def __init__(self, daemon: DaemonProcess, good: Replica, bad: Replica) -> None:
        self.daemon = daemon
        self._good, self._bad = good, bad
        self._clients = Clients(daemon)

    def tell(self) -> None:
        """All of it; about a minute."""
        with self._clients.asking():
            self._promotion()
            self._queries_and_labels()
            self._rollback()
            self._drift_under_a_freeze()
            self._wrong_weights()
            self._thaw()

    def _promotion(self) -> None:
        daemon = self.daemon
        daemon.publish(
            "labels",
            [
                {"id": f"e{number}", "question": question(number), "answer": ANSWERS[number % 2], "category": "parity"}
                for number in range(EXAMPLES)
            ],
        )
        self._reached(0, "promoted")

    def _queries_and_labels(self) -> None:
        """Queries, of which some are labelled later; one that is none; what clients say; what a reviewer says."""
        daemon = self.daemon
        daemon.publish("queries", [{"id": f"q{n}", "question": question(1_000 + n)} for n in range(QUERIES)])
        self._until(lambda: daemon.status()["pseudo_labels"]["total"] >= QUERIES)
        publish_as_it_is(daemon, b"this is no query")
        daemon.publish(
            "labels",
            [
                {"id": f"q{n}", "question": question(1_000 + n), "answer": ANSWERS[n % 2], "category": "parity"}
                for n in range(LABELS)
            ],
        )
        for name, number in self._clients.captured[-4:]:
            said = {"id": name, "answer": ANSWERS[number % 2]}
            daemon.post("/v1/feedback", said, front="gateway").raise_for_status()
        (asked, *_) = self._until(lambda: daemon.get("/v1/review").json()["items"])
        number = int(re.findall(r"\d+", asked["question"])[-1])
        daemon.post(f"/v1/review/{asked['review']}", {"answer": ANSWERS[number % 2]}).raise_for_status()
        self._until(lambda: self._metric("accuracy_without_labels_valid") == 1 and self._metric("accuracy_by_labels"))
        time.sleep(SEEN_S)

    def _rollback(self) -> None:
        self._reached(0, "settled")
        self.daemon.post("/v1/rounds", {"kind": "evolve"}).raise_for_status()
        self._reached(1, "promoted")
        self._until(lambda: self._metric("watch_pairs") is not None)
        time.sleep(SEEN_S)
        self.daemon.post("/v1/rollback").raise_for_status()
        self._reached(1, "rolled_back")
        time.sleep(SEEN_S)

    def _drift_under_a_freeze(self) -> None:
        daemon = self.daemon
        daemon.post("/v1/freeze", {"reason": "to look at the figures"}).raise_for_status()
        self._frozen_at = time.monotonic()
        words = ("parcel", "rain", "invoice", "garden", "harbour")
        daemon.publish(
            "queries",
            [
                {"id": f"d{n}", "question": f"my {words[n % 5]} from lisbon never came at all {n}"}
                for n in range(DRIFTED)
            ],
        )
        self._until(lambda: daemon.get("/v1/drift").json()["events"])

    def _wrong_weights(self) -> None:
        """A replica hangs up on clients, and comes back with weights that are not what was trained."""
        self._bad.hangs_up = True
        self._until(lambda: self._metric("gateway_upstream_failures_total"))
        time.sleep(SEEN_S)
        self._bad.restart(wrong=True)
        self._until(lambda: self._metric("replica_state", f'replica="{self._bad.name}",state="quarantined"') == 1)

    def _thaw(self) -> None:
        time.sleep(max(0.0, self._frozen_at + FREEZE_S - time.monotonic()))
        self.daemon.post("/v1/thaw").raise_for_status()
        time.sleep(2 * SEEN_S)

    def _reached(self, number: int, state: str) -> None:
        def there() -> bool:
            found = [each for each in self.daemon.rounds() if each["number"] == number]
            assert not found or found[0]["state"] not in ("failed", "rejected", "inconclusive"), found[0]
            return bool(found) and found[0]["state"] == state

        self._until(there)

    def _until(self, what: Callable[[], Any]) -> Any:
        return self.daemon.wait_until(what, PATIENCE_S)

    def _metric(self, name: str, labels: str = "") -> float | None:
        """The first value of a metric whose labels hold this text."""
        text = self.daemon.get("/metrics").text
        found = re.search(rf"^semievol_{name}\{{[^}}\n]*{re.escape(labels)}[^}}\n]*\}} (\S+)$", text, re.MULTILINE)
        return None if found is None else float(found[1])


def publish_as_it_is(daemon: DaemonProcess, value: bytes) -> None:
    """A record of the queries topic as a producer may write it; the API would refuse it."""
    config = load_config(DaemonConfig, daemon.config, {})

    async def publish() -> None:
        stores = open_stores(config.store_url, config.workload.name, config.workload.served_alias)
        producer = open_stream(config.stream, stores.database).producer()
        try:
            await producer.publish(config.stream.queries, [OutgoingRecord("key", value)])
        finally:
            await producer.close()
            stores.database.close()

    asyncio.run(publish())
