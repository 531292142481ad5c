"""A daemon with one held-out example and one neighbour that are too long for the model: they are named, all goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from semievol.examples.split import is_holdout
from semievold.config.streams import LabelsSettings
from tests.daemon_process import DaemonProcess, example, query, tiny_config

pytestmark = pytest.mark.timeout(300)

SHARE = 0.4
LONG = "red " * 80
"""320 tokens of single bytes; the model has 256 positions."""


def identity(held_out: bool) -> str:
    """An id that the hash puts on this side."""
    names = (f"long-{number}" for number in range(100))
    return next(name for name in names if is_holdout(name, SHARE, LabelsSettings().holdout_salt) == held_out)


def test_the_first_adapter_serves_and_queries_are_labelled(tmp_path: Path) -> None:
    held_out, neighbour = identity(held_out=True), identity(held_out=False)
    daemon = DaemonProcess(tiny_config(tmp_path))
    daemon.start()
    try:
        daemon.wait_ready()
        long = [{"id": name, "question": f"{name[-1]} {LONG}", "answer": "red"} for name in (held_out, neighbour)]
        # Sixty different questions: the gate counts one answer a question.
        short = [{**example(n), "question": f"{example(n)['answer']} {n % 7} {n // 7}"} for n in range(60)]
        daemon.publish("labels", [*short, *long])
        daemon.publish("queries", [*(query(number) for number in range(12)), {"id": "long-query", "question": LONG}])
        daemon.wait_until(lambda: daemon.rounds() and daemon.rounds()[0]["state"] == "settled", 200.0)
        assert daemon.status()["serving"] is not None
        (warm,) = daemon.rounds()
        evaluation = daemon.get(f"/v1/rounds/{warm['number']}").json()["evaluation"]
        assert list(evaluation["left_out"]) == [held_out]
        assert "tokens, the limit is 248" in evaluation["left_out"][held_out]
        assert f"example {held_out} is left out of the evaluation" in daemon.log(400)
        daemon.wait_until(lambda: daemon.status()["pseudo_labels"]["total"] == 12, 60.0)
        daemon.wait_until(lambda: "query long-query is left out" in daemon.log(400), 60.0)
        reds = [daemon.get(f"/v1/explain/q{number}").json() for number in range(0, 12, 4)]
        assert all(neighbour not in [each["id"] for each in red["neighbours"]] for red in reds)
        daemon.wait_until(lambda: daemon.status()["queries_waiting"] == 0, 60.0)
    finally:
        daemon.stop()
