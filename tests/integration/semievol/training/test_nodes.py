"""Several machines train one job by the command of the Indexed Job's pods: here each is a process group of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from semievol import adapter_directory
from semievol.training.job import TrainingJob, write_snapshot
from semievol.training.lora import LOST_EXIT_CODE
from semievol.training.nodes import INDEX_VARIABLE
from semievol.training.progress import read_progress
from tests.servers import free_port
from tests.tiny_job import ROWS, tiny_job
from tests.tiny_model import make_tiny_model

pytest.importorskip("torch")

PATIENCE_S = 900.0
STEPS = 135
"""Enough to be killed in the middle."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one process, by step."""
    place = tmp_path_factory.mktemp("alone")
    write_snapshot(place / "snapshot", long_job(model), ROWS)
    subprocess.run([*command(place, "train"), *paths(place)], check=True, timeout=PATIENCE_S, env=environment())
    return losses(place)


def long_job(model: Path) -> TrainingJob:
    return tiny_job(model, epochs=STEPS * 4 / len(ROWS), checkpoint_steps=10)


def command(place: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-c", "from semievold.commands.cli import main; main()", *arguments]


def paths(place: Path) -> list[str]:
    return [text for name in ("snapshot", "work", "adapters") for text in (f"--{name}", str(place / name))]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def losses(place: Path) -> list[float]:
    """By step; what a resumed training did again counts as it was done last."""
    lines = [json.loads(line) for line in (place / "work" / "losses.jsonl").read_text("utf-8").splitlines()]
    by_step = {line["step"]: line["loss"] for line in lines}
    assert sorted(by_step) == list(range(1, len(by_step) + 1))
    return [by_step[step] for step in sorted(by_step)]


class Pods:
    """The two pods of an Indexed Job; who ends with a code that is worth another attempt is started again."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._port = free_port()
        self.there: dict[int, subprocess.Popen[bytes]] = {}
        self.codes: list[tuple[int, int]] = []
        """(index, exit code) of each that has ended, in order."""

    def start(self, index: int) -> None:
        # The rendezvous is at the first pod: the second one has to wait for it.
        together = ["--nodes", "2", "--rendezvous", f"127.0.0.1:{self._port}"]
        self.there[index] = subprocess.Popen(
            [*command(self._place, "train"), *paths(self._place), *together],
            env=environment(**{INDEX_VARIABLE: str(index)}),
            start_new_session=True,
        )

    def lose(self, index: int) -> None:
        """As a node that is switched off."""
        os.killpg(self.there[index].pid, signal.SIGKILL)

    def look(self) -> None:
        for index, pod in list(self.there.items()):
            if (code := pod.poll()) is not None:
                self.codes.append((index, code))
                del self.there[index]
                if code in (LOST_EXIT_CODE, -signal.SIGKILL):
                    self.start(index)

    def stop(self) -> None:
        for pod in self.there.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pod.pid, signal.SIGKILL)
            pod.wait(PATIENCE_S)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    pods = Pods(tmp_path)
    yield pods
    pods.stop()


def until(condition: Any, pods: Pods) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, pods.codes
        time.sleep(0.02)
        pods.look()


def to_the_middle(model: Path, pods: Pods, place: Path) -> None:
    """Both pods train, and have left checkpoints behind."""
    write_snapshot(place / "snapshot", long_job(model), ROWS)
    pods.start(0)
    pods.start(1)
    until(lambda: (read_progress(place / "work") or {}).get("step", 0) > 30, pods)


def published(place: Path) -> dict[str, Any]:
    (path,) = (place / "adapters").glob("tiny-r0001-*")
    return dict(adapter_directory.verify(path).training)


@pytest.mark.timeout(2 * PATIENCE_S)
def test_two_pods_train_by_the_curve_of_one_process(
    model: Path, alone: list[float], pods: Pods, tmp_path: Path
) -> None:
    write_snapshot(tmp_path / "snapshot", long_job(model), ROWS)
    pods.start(1)
    pods.start(0)
    until(lambda: not pods.there, pods)
    assert sorted(pods.codes) == [(0, 0), (1, 0)]
    assert published(tmp_path)["processes"] == 2
    assert losses(tmp_path) == pytest.approx(alone, rel=0.02, abs=1e-3)


@pytest.mark.timeout(3 * PATIENCE_S)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_pod_that_is_lost_costs_no_more_than_the_steps_since_the_last_checkpoint(
    model: Path, alone: list[float], pods: Pods, tmp_path: Path, lost: int
) -> None:
    to_the_middle(model, pods, tmp_path)
    pods.lose(lost)
    until(lambda: not pods.there, pods)
    assert (lost, -signal.SIGKILL) in pods.codes
    assert set(pods.codes) <= {(lost, -signal.SIGKILL), (0, LOST_EXIT_CODE), (1, LOST_EXIT_CODE), (0, 0), (1, 0)}
    assert published(tmp_path)["resumed_from_step"] >= 20
    assert losses(tmp_path) == pytest.approx(alone, rel=0.02, abs=1e-3)


@pytest.mark.timeout(3 * PATIENCE_S)
def test_a_pod_that_comes_back_before_the_others_know_that_it_was_lost_leaves_the_meeting_that_is_over(
    model: Path, alone: list[float], pods: Pods, tmp_path: Path
) -> None:
    to_the_middle(model, pods, tmp_path)
    (trainer,) = psutil.Process(pods.there[0].pid).children()
    trainer.suspend()  # it does not notice
    pods.lose(1)
    until(lambda: (0, LOST_EXIT_CODE) in pods.codes, pods)
    trainer.resume()  # and ends with the one that started it
    until(lambda: not pods.there, pods)
    # The one that came back has waited for the next meeting: it had been at the one that was over.
    assert sorted(pods.codes) == [(0, 0), (0, LOST_EXIT_CODE), (1, -signal.SIGKILL), (1, 0)]
    assert published(tmp_path)["resumed_from_step"] >= 20
    assert losses(tmp_path) == pytest.approx(alone, rel=0.02, abs=1e-3)


@pytest.mark.timeout(2 * PATIENCE_S)
def test_what_would_fail_again_is_told_from_what_was_lost(model: Path, pods: Pods, tmp_path: Path) -> None:
    from dataclasses import replace

    orphan = replace(long_job(model), parent=tmp_path / "adapters" / "tiny-r0000-00000000")
    write_snapshot(tmp_path / "snapshot", orphan, ROWS)
    pods.start(0)
    pods.start(1)
    until(lambda: any(code == 1 for _, code in pods.codes), pods)
    result = json.loads((tmp_path / "work" / "result.json").read_text("utf-8"))
    assert result["kind"] == "AdapterError"
