"""Each role as a process of its own, on one state: they find each other by it alone."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon_process import DaemonProcess, example, query, tiny_config

pytestmark = pytest.mark.timeout(600)

ROLES = ("labels", "gateway", "intake", "control")


def loaded(daemon: DaemonProcess, library: str) -> bool:
    return library in Path(f"/proc/{daemon.pid}/maps").read_text()


def end(daemon: DaemonProcess) -> None:
    if daemon.running:
        daemon.kill()


def test_the_roles_work_together_as_four_processes(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, index={"follow_interval_s": 0.2})
    with ExitStack() as stack:
        labels, gateway, intake, control = (DaemonProcess(config, role=role) for role in ROLES)
        for daemon in (labels, gateway, intake, control):
            daemon.start()
            stack.callback(end, daemon)
        for daemon in (labels, gateway, intake, control):
            daemon.wait_ready(300.0)  # four processes import at once

        intake.publish("queries", [query(number) for number in range(12)])
        labels.publish("labels", [example(number) for number in range(60)])
        control.wait_until(lambda: control.rounds() and control.rounds()[0]["state"] == "settled", 200.0)
        adapter = control.status()["serving"]
        assert adapter is not None

        # The intake waited for the warm round of another process, followed its alias and its examples.
        intake.wait_until(lambda: intake.status()["pseudo_labels"]["total"] == 12)
        explained = intake.get("/v1/explain/q1").json()
        assert explained["adapter"] == adapter
        assert len(explained["neighbours"]) == 2
        gateway.wait_until(lambda: gateway.chat("red 1").headers.get("x-semievol-adapter") == adapter)
        assert [daemon.status()["leader"] for daemon in (labels, gateway, intake, control)] == [False] * 3 + [True]

        # What is retracted is no neighbour any more, in no process.
        gone = explained["neighbours"][0]["id"]
        retract = [sys.executable, "-m", "semievold.commands.cli", "labels", "retract", gone, "-c", str(config)]
        subprocess.run(retract, check=True, capture_output=True)
        intake.wait_until(lambda: intake.status()["examples"]["retracted"] == 1)
        time.sleep(1.0)  # five looks of the follower, which tells nobody
        intake.publish("queries", [{"id": "again", "question": explained["question"]}])
        intake.wait_until(lambda: intake.status()["pseudo_labels"]["total"] == 13)
        neighbours = intake.get("/v1/explain/again").json()["neighbours"]
        assert len(neighbours) == 2
        assert gone not in {neighbour["id"] for neighbour in neighbours}

        assert not loaded(labels, "libtorch")
        for daemon in (intake, labels, control, gateway):
            assert daemon.stop() == 0
