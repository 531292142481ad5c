"""A Job that is gone: what its trainer left says whether it is made again. At a real API server: test_jobs.py."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from semievol.errors import AdapterError
from semievol.training import lora
from semievol.training.job import ROWS_FILE
from semievold.rounds.jobs.launcher import KubernetesLauncher
from semievold.rounds.launch import TrainingPlace
from tests.training_jobs import IMAGE, place_of, settings, write


class NoJobs:
    """A namespace whose Jobs have all been removed; what is created is remembered, and stays unseen."""

    def __init__(self) -> None:
        self.created: list[str] = []

    def job(self, name: str) -> None:
        return None

    def jobs(self, labels: Any) -> list[Any]:
        return []

    def create_job(self, manifest: Any) -> bool:
        self.created.append(manifest["metadata"]["name"])
        raise AssertionError("made again")


async def train(place: TrainingPlace) -> NoJobs:
    cluster: Any = NoJobs()
    launcher = KubernetesLauncher("tiny", settings(image=IMAGE, poll_s=0.01), cluster)
    async with asyncio.timeout(30.0):
        await launcher.train(place)
    return cluster


def fail_for_good(place: TrainingPlace) -> None:
    """What the trainer does in the Job: it says that it cannot train these rows."""
    (place.snapshot / ROWS_FILE).write_text("", "utf-8")
    arguments = ["--snapshot", str(place.snapshot), "--work", str(place.work), "--adapters", str(place.adapters)]
    assert lora.main(arguments) == 1


async def test_a_job_that_failed_and_was_removed_before_anyone_looked_is_not_made_again(tmp_path: Path) -> None:
    place = write(place_of(tmp_path))
    fail_for_good(place)
    with pytest.raises(AdapterError, match=r"Job tiny-r0001-\w+ failed, and is gone: training failed: .*no rows"):
        await train(place)


@pytest.mark.parametrize(
    "change",
    [
        {"final": False},  # one of several machines was lost
        {"snapshot_sha256": "0" * 64},  # it was another snapshot's
    ],
)
async def test_a_failure_that_says_nothing_of_this_training_lets_it_begin(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    place = write(place_of(tmp_path))
    fail_for_good(place)
    result = place.work / lora.RESULT_FILE
    result.write_text(json.dumps(json.loads(result.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(AssertionError, match="made again"):
        await train(place)


async def test_a_training_that_left_no_word_begins(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="made again"):
        await train(write(place_of(tmp_path)))


@pytest.mark.parametrize(
    ("status", "metadata", "trains"),
    [
        ({"active": 1}, {}, True),
        ({"active": 1}, {"deletionTimestamp": "2026-01-01T00:00:00Z"}, True),  # its pods are there still
        ({"conditions": [{"type": "Complete", "status": "True"}]}, {}, False),
        ({"conditions": [{"type": "Failed", "status": "True"}]}, {}, False),
    ],
)
async def test_a_job_has_its_gpu_until_it_has_ended_or_its_pods_are_gone(
    status: dict[str, Any], metadata: dict[str, Any], trains: bool
) -> None:
    class OneJob(NoJobs):
        def jobs(self, labels: Any) -> list[Any]:
            assert labels == {"semievol-workload": "tiny"}
            return [{"metadata": metadata, "status": status}]

    cluster: Any = OneJob()
    assert await KubernetesLauncher("tiny", settings(image=IMAGE), cluster).trains() is trains
