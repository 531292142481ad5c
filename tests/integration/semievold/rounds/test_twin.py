"""Taking a label back after three rounds gives the very weights of a daemon that never had it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from semievol.examples.split import is_holdout
from tests.daemon_process import DaemonProcess, example, query, tiny_config
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.timeout(900)

LABELS = [example(number) for number in range(60)]
QUERIES = [query(number) for number in range(24)]
CHECKED_S = 300.0


WRONG = next(name for number in range(99) if not is_holdout(name := f"wrong{number}", 0.4, "holdout"))
"""Is trained on, and near to what is asked."""


class Twin:
    """One of the two daemons."""

    def __init__(self, directory: Path, model: Path) -> None:
        directory.mkdir()
        (directory / "model").symlink_to(model)
        self.daemon = DaemonProcess(
            tiny_config(
                directory,
                model={"name": str(model)},  # under one path: it is written into the adapter
                labelling={
                    "configurations": [
                        {"name": "greedy", "temperature": 0.0, "neighbours": 2},
                        {"name": "closed", "temperature": 0.0, "neighbours": 0},
                    ]
                },
                selection={"theta": 1.0},
            )
        )

    def begin(self) -> None:
        """The warm round has been decided, and all queries are labelled by its version."""
        self.daemon.start()
        self.daemon.wait_ready(CHECKED_S)
        self.daemon.publish("labels", LABELS)
        self.ended(0)
        assert self.daemon.rounds()[0]["state"] == "settled", self.daemon.rounds()
        self.daemon.publish("queries", QUERIES)
        self.daemon.wait_until(
            lambda: self.daemon.status()["pseudo_labels"]["total"] == len(QUERIES), timeout_s=CHECKED_S
        )

    def ended(self, number: int) -> dict[str, Any]:
        def over() -> Any:
            rounds = [each for each in self.daemon.rounds() if each["number"] == number]
            return rounds and rounds[0]["state"] in ("settled", "rejected", "inconclusive", "failed", "cancelled")

        self.daemon.wait_until(over, timeout_s=CHECKED_S)
        return dict(self.daemon.get(f"/v1/rounds/{number}").json())

    def evolve(self, number: int) -> dict[str, Any]:
        assert self.daemon.post("/v1/rounds", {"kind": "evolve"}).json()["round"] == number
        return self.ended(number)

    def serve(self, adapter: str) -> None:
        """Whatever the gate has said of it."""
        if self.daemon.status()["serving"] != adapter:
            answer = self.daemon.post(f"/v1/adapters/{adapter}/promote")
            assert answer.status_code == 200, answer.text

    def command(self, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "semievold.commands.cli", *arguments]
        done = subprocess.run(
            [*command, "-c", str(self.daemon.config), "-o", "json"], capture_output=True, text=True, check=True
        )
        return dict(json.loads(done.stdout))


def trained_on(twin: Twin, number: int) -> list[str]:
    rows = (twin.daemon.data / f"rounds/r{number:04d}/snapshot/rows.jsonl").read_text().splitlines()
    return sorted(rows)


def test_a_label_of_the_first_round_taken_back_after_the_third_leaves_no_trace(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    had, never = Twin(tmp_path / "had", model), Twin(tmp_path / "never", model)
    try:
        had.begin()
        had.daemon.publish("labels", [{"id": WRONG, "question": "red 8 8", "answer": "black"}])
        had.daemon.wait_until(lambda: had.daemon.get(f"/v1/lineage/labels/{WRONG}").status_code == 200)
        for number in (1, 2, 3):
            made = had.evolve(number)
            assert made["adapter"], made["reason"]
            assert made["snapshot"]["examples"] == 1 + had.daemon.get("/v1/rounds/0").json()["snapshot"]["examples"]
            had.serve(made["adapter"])
        report = had.command("labels", "retract", WRONG)
        assert report["descendants"]["rounds"] == [1, 2, 3]
        assert had.daemon.status()["serving_descends_from"] == WRONG
        clean = had.ended(4)

        never.begin()
        for number in (1, 2, 3):  # a round's seed is that of its number
            begun = never.daemon.post("/v1/rounds", {"kind": "evolve"}).json()
            assert begun["round"] == number, begun
            never.daemon.post(f"/v1/rounds/{number}/cancel")
            never.ended(number)
        twin = never.evolve(4)

        assert trained_on(had, 4) == trained_on(never, 4)
        hashes = [
            each.daemon.get(f"/v1/adapters/{made['adapter']}").json()["content_hash"]
            for each, made in ((had, clean), (never, twin))
        ]
        assert hashes[0] == hashes[1]
        assert clean["snapshot"]["rows_hash"] == twin["snapshot"]["rows_hash"]
        # It had taught: the third version is another one than a third without it would be.
        assert f'"{WRONG}"' in "".join(trained_on(had, 3))
    finally:
        for each in (had, never):
            if each.daemon.running:
                each.daemon.stop()
