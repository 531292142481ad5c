"""Several processes train one job: the weights are those that one process would have trained."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from semievol import adapter_directory
from semievol.adapter_directory import WEIGHTS_FILE
from semievol.errors import AdapterError
from semievol.training.job import TrainingJob, write_snapshot
from semievol.training.process import train_in_subprocess
from tests.tiny_job import ROWS, tiny_job
from tests.tiny_model import make_tiny_model

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


async def trained(place: Path, of: TrainingJob) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights, and the summary of the training."""
    from safetensors.torch import load_file

    write_snapshot(place / "snapshot", of, ROWS)
    path = await train_in_subprocess(place / "snapshot", place / "work", place / "adapters")
    return load_file(path / WEIGHTS_FILE), dict(adapter_directory.verify(path).training)


async def test_two_processes_train_what_one_would_train(model: Path, tmp_path: Path) -> None:
    alone, summary = await trained(tmp_path / "alone", tiny_job(model))
    together, of_two = await trained(tmp_path / "together", tiny_job(model, processes=2))
    assert (summary["processes"], of_two["processes"]) == (1, 2)
    assert summary["steps"] == of_two["steps"] == 3
    assert of_two["first_loss"] == pytest.approx(summary["first_loss"], rel=1e-4)
    assert of_two["last_loss"] == pytest.approx(summary["last_loss"], rel=1e-3)
    assert together.keys() == alone.keys()
    for name, weights in alone.items():
        moved = torch.linalg.norm(weights).item()
        assert torch.linalg.norm(together[name] - weights).item() < 1e-2 * moved, name


async def test_a_failure_of_all_processes_is_told_once_and_by_its_name(model: Path, tmp_path: Path) -> None:
    of = dataclasses.replace(tiny_job(model, processes=2), parent=tmp_path / "adapters" / "t-r0001-00000000")
    write_snapshot(tmp_path / "snapshot", of, ROWS)
    with pytest.raises(AdapterError, match=r"t-r0001-00000000"):
        await train_in_subprocess(tmp_path / "snapshot", tmp_path / "work", tmp_path / "adapters")
    result = json.loads((tmp_path / "work" / "result.json").read_text())
    assert result["kind"] == "AdapterError"


@pytest.mark.timeout(240)
async def test_a_training_ends_when_one_of_its_processes_is_killed(model: Path, tmp_path: Path) -> None:
    endless = dataclasses.replace(tiny_job(model, processes=2), epochs=100_000)
    write_snapshot(tmp_path / "snapshot", endless, ROWS)
    call = asyncio.create_task(train_in_subprocess(tmp_path / "snapshot", tmp_path / "work", tmp_path / "adapters"))
    async with asyncio.timeout(100):
        while not is_training(tmp_path / "work"):  # noqa: ASYNC110 (nothing announces a step of another program)
            await asyncio.sleep(0.05)
    (second,) = second_process(str(tmp_path / "snapshot"))
    os.kill(second, signal.SIGKILL)
    with pytest.raises(AdapterError, match="training failed"):
        await call
    assert second_process(str(tmp_path / "snapshot")) == []


def is_training(work: Path) -> bool:
    try:
        return bool(json.loads((work / "progress.json").read_text())["state"] == "training")
    except OSError:
        return False


def second_process(marker: str) -> list[int]:
    """The process of rank 1 whose command line holds `marker`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if marker.encode() in command and b"\0RANK=1\0" in environment:
            found.append(int(process.name))
    return found
