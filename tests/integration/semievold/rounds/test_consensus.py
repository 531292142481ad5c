"""A round of the whole daemon that trains on the consensus of its pool."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.daemon_process import COLOURS, DaemonProcess, example, query, tiny_config

pytestmark = pytest.mark.timeout(300)

QUERIES = 40


def test_a_round_learns_the_answers_of_the_consensus_and_explains_them(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path,
        labelling={
            "consensus": {"votes": 0.5},
            # A view that is told a colour which the question does not say: it is often wrong.
            "configurations": [
                {"name": "misled", "temperature": 0.0, "neighbours": 0, "template": "blue {question}"},
            ],
        },
        selection={"by": "consensus", "theta": 0.5},
    )
    daemon = DaemonProcess(config)
    daemon.start()
    try:
        daemon.wait_ready()
        daemon.publish("labels", [example(number) for number in range(60)])
        daemon.publish("queries", [query(number) for number in range(QUERIES)])
        daemon.wait_until(lambda: daemon.rounds() and daemon.rounds()[0]["state"] == "settled")
        daemon.wait_until(lambda: daemon.status()["pseudo_labels"]["total"] == QUERIES)
        assert daemon.post("/v1/rounds", {"kind": "evolve"}).status_code == 200
        daemon.wait_until(lambda: daemon.rounds()[0]["number"] == 1 and daemon.rounds()[0]["adapter"])
        detail = daemon.get("/v1/rounds/1").json()
        views = {each["id"]: each for each in (daemon.get(f"/v1/explain/q{n}").json() for n in range(QUERIES))}
    finally:
        daemon.stop()
    uses = {query_id: view["rounds"][0] for query_id, view in views.items()}
    assert all(0 <= use["consensus"] <= 1 for use in uses.values())
    changed = [key for key, use in uses.items() if use["answer"] != views[key]["answer"]]
    assert any(uses[key]["selected"] for key in changed)
    assert detail["snapshot"]["answers_changed"] == len(changed)
    taken = next(event["detail"] for event in detail["events"] if event["to_state"] == "snapshotted")
    assert taken.endswith(f"; the consensus changed {len(changed)} of {QUERIES} answers")

    kept = {key: use for key, use in uses.items() if use["selected"]}
    refused = [use for use in uses.values() if not use["selected"] and use["answer"] is not None]
    assert min(use["consensus"] for use in kept.values()) > max((use["consensus"] for use in refused), default=0.0)
    rows = [json.loads(line) for line in (daemon.data / "rounds/r0001/snapshot/rows.jsonl").read_text().splitlines()]
    trained = {row["id"]: row["completion"] for row in rows if row["kind"] == "pseudo-label"}
    assert trained == {key: use["answer"] for key, use in kept.items()}
    assert set(trained.values()) <= set(COLOURS)
    # The colour is said in the question, so that near questions say it too.
    assert sum(use["answer"] in views[key]["question"] for key, use in kept.items()) > 0.9 * len(kept)
