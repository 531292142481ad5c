"""`kill -9` at every state of a round: the same round goes on, nothing is lost, labelled twice or half written."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from semievol import adapter_directory
from semievold.store.stores import Stores, open_stores
from tests.daemon_process import DaemonProcess, example, query, tiny_config

DYING = Path(__file__).with_name("dying_daemon.py")
EXAMPLES, QUERIES = 60, 40

pytestmark = pytest.mark.timeout(600)


def stores_of(daemon: DaemonProcess) -> Stores:
    return open_stores(f"sqlite:///{daemon.data.resolve() / 'state.db'}", "tiny", "tiny")


def wait_for_death(daemon: DaemonProcess, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while daemon.running:
        assert time.monotonic() < deadline, f"still alive:\n{daemon.log()}"
        time.sleep(0.05)
    assert daemon.code == -9, daemon.log()


def feed(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.wait_ready()
    daemon.publish("labels", [example(number) for number in range(EXAMPLES)])
    daemon.publish("queries", [query(number) for number in range(QUERIES)])


def assert_whole(stores: Stores, daemon: DaemonProcess) -> None:
    """No half-written adapter is registered, and every query has exactly one label."""
    for version in stores.adapters.all():
        assert adapter_directory.verify(version.path).content_hash == version.content_hash
    assert stores.pseudo_labels.counts().total == QUERIES
    assert stores.pseudo_labels.counts().unpublished == 0


def test_a_warm_round_killed_in_every_state_goes_on_to_its_promotion(tmp_path: Path) -> None:
    """One round, killed after each of its moves and before one; every restart takes the same round further."""
    config = tiny_config(tmp_path)
    first = DaemonProcess(config, DYING, {"DIE_AT": "planned"})
    feed(first)
    wait_for_death(first)
    stores = stores_of(first)
    for state in ("snapshotted", "training", "trained", "loaded", "evaluated", "attested", "promoted"):
        daemon = DaemonProcess(config, DYING, {"DIE_AT": state})
        daemon.start()
        wait_for_death(daemon)
        assert [round_.state.value for round_ in stores.rounds.all()] == [state]
    survivor = DaemonProcess(config)
    survivor.start()
    survivor.wait_until(lambda: survivor.status()["pseudo_labels"]["total"] == QUERIES)
    survivor.wait_until(lambda: survivor.rounds()[0]["state"] == "settled")
    rounds = survivor.rounds()
    assert len(rounds) == 1
    assert survivor.status()["serving"] == rounds[0]["adapter"]
    assert survivor.chat("red 1").headers["x-semievol-adapter"] == rounds[0]["adapter"]
    assert survivor.stop() == 0
    assert_whole(stores, survivor)
    again = DaemonProcess(config)
    again.start()
    again.wait_ready()
    answer = again.chat("red 1")  # the very first request after a start finds its adapter
    assert (answer.status_code, answer.headers.get("x-semievol-adapter")) == (200, rounds[0]["adapter"])
    assert again.stop() == 0
    moves = [event["to_state"] for event in stores.rounds.events(0)]
    assert len(moves) == len(set(moves)) == 9


def test_a_round_killed_before_its_moves_commit_repeats_them(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    first = DaemonProcess(config, DYING, {"DIE_AT": "trained", "DIE_BEFORE_COMMIT": "1"})
    feed(first)
    wait_for_death(first)
    second = DaemonProcess(config, DYING, {"DIE_AT": "promoted", "DIE_BEFORE_COMMIT": "1"})
    second.start()
    wait_for_death(second)
    stores = stores_of(second)
    assert stores.alias.get().adapter is None  # neither the alias nor the round has moved
    assert stores.rounds.all()[0].state.value == "attested"
    survivor = DaemonProcess(config)
    survivor.start()
    survivor.wait_until(lambda: survivor.rounds()[0]["state"] == "settled")
    survivor.wait_until(lambda: survivor.status()["pseudo_labels"]["total"] == QUERIES)
    assert survivor.stop() == 0
    assert len(stores.adapters.all()) == 1
    assert_whole(stores, survivor)


def test_a_training_killed_in_the_middle_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, training={"warm_epochs": 80, "checkpoint_steps": 10})
    daemon = DaemonProcess(config)
    feed(daemon)

    def step() -> int:
        round_ = daemon.status()["round"] or {}
        return int((round_.get("training") or {}).get("step") or 0)

    daemon.wait_until(lambda: step() >= 30)
    daemon.kill()
    survivor = DaemonProcess(config)
    survivor.start()
    survivor.wait_until(lambda: survivor.rounds()[0]["state"] == "settled", timeout_s=150)
    detail = survivor.get("/v1/rounds/0").json()
    assert survivor.stop() == 0
    assert detail["training"]["resumed_from_step"] >= 10
    assert len(detail["events"]) == 9


def test_an_open_gate_goes_on_from_the_same_evidence_and_counts_no_label_twice(tmp_path: Path) -> None:
    """Evidence of a million million is asked for: more than the first forty held-out labels can give."""
    records = [{**example(number), "question": f"{example(number)['answer']} {number}"} for number in range(120)]
    gate = {"alpha": 1e-12, "beta": 1e-12, "min_holdout": 40, "patience_s": 600.0}
    config = tiny_config(tmp_path, gate=gate, labels={"holdout_share": 0.5})
    daemon = DaemonProcess(config)
    daemon.start()
    daemon.wait_ready()
    daemon.publish("labels", records[:80])
    daemon.wait_until(lambda: daemon.status()["waiting_for"].startswith("round 0 (warm), which is proving: "))
    before = daemon.status()["round"]["gate"]
    daemon.kill()
    survivor = DaemonProcess(config)
    survivor.start()
    survivor.wait_ready()
    survivor.wait_until(lambda: survivor.status()["waiting_for"].startswith("round 0 (warm), which is proving: "))
    assert survivor.status()["round"]["gate"] == before
    survivor.publish("labels", records)
    survivor.wait_until(lambda: survivor.rounds()[0]["state"] == "settled")
    after = survivor.rounds()[0]["gate"]
    assert before["count"] < after["count"] <= survivor.status()["examples"]["holdout"]
    assert survivor.stop() == 0
    stored = stores_of(survivor).rounds.outcomes(0)
    assert {role: len(found) for role, found in stored.items()} == dict.fromkeys(
        ("incumbent", "candidate"), after["count"]
    )
