"""Training on a fine-tuning API: one snapshot is paid for once, whatever is killed or lost on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from semievol.adapter_directory import hosted_model, verify
from semievol.config.fine_tuning import FineTuningConfig
from semievol.config.method import ModelConfig, TrainingConfig
from semievol.errors import AdapterError, ConfigError, TransientError
from semievol.training import fine_tuning
from semievol.training.fine_tuning import FineTuningTrainer, chat_rows
from semievol.training.job import TrainingJob, write_snapshot
from semievol.types import Message, TrainingRow
from tests.openai_api import BASE, KEY, OpenAIApi

ROWS = [TrainingRow(f"e{i}", (Message("user", f"say {'ab'[i % 2]} {i}"),), "ab"[i % 2], "example") for i in range(12)]


@pytest.fixture
async def api() -> AsyncIterator[OpenAIApi]:
    made = OpenAIApi()
    await made.start()
    yield made
    await made.stop()


def snapshot(directory: Path, rows: list[TrainingRow] = ROWS, parent: Path | None = None) -> Path:
    job = TrainingJob(
        workload="files",
        round_number=1,
        kind="warm",
        seed=2**40 + 3,
        model=ModelConfig(name=BASE),
        training=TrainingConfig(openai_api=FineTuningConfig(api_key="known-secret")),
        learning_rate=1e-4,
        epochs=1,
        name_prefix="r0001",
        parent=parent,
    )
    write_snapshot(directory, job, rows)
    return directory


async def train(
    api: OpenAIApi, directory: Path, *, key: str = KEY, progress: list[int] | None = None, **settings: object
) -> Path:
    """Train `directory/snapshot`, made unless it is there."""
    if not (directory / "snapshot").exists():
        snapshot(directory / "snapshot")
    config = FineTuningConfig.model_validate({"poll_interval_s": 0.01, **settings})
    trainer = FineTuningTrainer(api.url, key, config.model or BASE, config)
    told = [] if progress is None else progress
    return await trainer(directory / "snapshot", directory / "work", directory / "adapters", told.append)


async def test_rows_become_a_job_and_its_model_a_published_directory(api: OpenAIApi, tmp_path: Path) -> None:
    progress: list[int] = []
    path = await train(api, tmp_path, progress=progress, n_epochs=3, suffix="mine")
    manifest = verify(path)
    assert hosted_model(path) == f"ft:{BASE}:ftjob-1"
    assert (manifest.base_model, manifest.round_number, manifest.training["trained_tokens"]) == (BASE, 1, 120)
    (asked,) = [body for url, body in api.asked if url.endswith("/jobs")]
    assert asked == {
        "model": BASE,
        "training_file": "file-1",
        "suffix": "mine",
        "seed": (2**40 + 3) % 2**31,
        "method": {
            "type": "supervised",
            "supervised": {
                "hyperparameters": {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": "auto"}
            },
        },
    }
    lines = [json.loads(line) for line in api.files["file-1"].splitlines()]
    assert lines[1] == {"messages": [{"role": "user", "content": "say b 1"}, {"role": "assistant", "content": "b"}]}
    assert sum(progress) == 100
    assert len(progress) > 2
    assert "Step 2/4" in (tmp_path / "work" / "trainer.log").read_text()
    assert "known-secret" not in (tmp_path / "snapshot" / "job.json").read_text()


def test_shown_neighbours_are_not_learned_and_weights_become_repeats() -> None:
    shown = (Message("user", "q1"), Message("assistant", "a"), Message("user", "q2"))
    (first, again) = map(json.loads, chat_rows([TrainingRow("x", shown, "b", "example", weight=2)]).splitlines())
    assert first == again
    assert [message.get("weight") for message in first["messages"]] == [None, 0, None, None]


async def test_a_finished_training_asks_nothing_again(api: OpenAIApi, tmp_path: Path) -> None:
    path = await train(api, tmp_path)
    calls = api.calls.total()
    assert await train(api, tmp_path) == path
    assert api.calls.total() == calls


async def test_an_interrupted_call_leaves_the_job_and_the_next_one_waits_for_it(api: OpenAIApi, tmp_path: Path) -> None:
    api.hold = True
    running = asyncio.create_task(train(api, tmp_path))
    await api.held.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not api.jobs["ftjob-1"].cancelled
    api.hold = False
    assert hosted_model(await train(api, tmp_path)) == f"ft:{BASE}:ftjob-1"
    assert (len(api.files), len(api.jobs)) == (1, 1)


async def test_the_job_is_cancelled_with_the_run_when_that_is_asked_for(api: OpenAIApi, tmp_path: Path) -> None:
    api.hold = True
    running = asyncio.create_task(train(api, tmp_path, cancel_on_interrupt=True))
    await api.held.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert api.jobs["ftjob-1"].cancelled
    api.hold = False
    assert hosted_model(await train(api, tmp_path)) == f"ft:{BASE}:ftjob-2"


async def test_a_job_whose_creation_was_not_confirmed_is_found_by_its_file(
    api: OpenAIApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "_FIRST_POLL_S", 0.01)
    monkeypatch.setattr(fine_tuning, "_PAGE", 1)
    other = tmp_path / "other"
    await train(api, other)
    api.lose_answers = 1
    assert hosted_model(await train(api, tmp_path)) == f"ft:{BASE}:ftjob-2"
    assert len(api.jobs) == 2


async def test_a_job_that_has_failed_is_not_taken_for_the_one_whose_creation_was_lost(
    api: OpenAIApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "_FIRST_POLL_S", 0.01)
    api.lose_answers, api.fail = 1, "out of memory"
    assert hosted_model(await train(api, tmp_path)) == f"ft:{BASE}:ftjob-2"


@pytest.mark.parametrize("page", [[], {"data": None}, {"data": ["x"]}, {"data": [{"message": "Step 1/4"}]}])
async def test_events_of_another_shape_are_none(api: OpenAIApi, tmp_path: Path, page: object) -> None:
    api.odd = {"/events": page}
    assert hosted_model(await train(api, tmp_path)) == f"ft:{BASE}:ftjob-1"


@pytest.mark.parametrize("page", [[], {"jobs": []}, {"data": ["ftjob-1"]}])
async def test_a_list_of_another_shape_is_no_fine_tuning_api(
    api: OpenAIApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: object
) -> None:
    monkeypatch.setattr(fine_tuning, "_FIRST_POLL_S", 0.01)
    api.lose_answers, api.odd = 1, {"/fine_tuning/jobs": page}
    with pytest.raises(ConfigError, match=r"training\.openai_api\.base_url: the answer there is no list"):
        await train(api, tmp_path)


async def test_busy_answers_are_waited_out_everywhere(
    api: OpenAIApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "_FIRST_POLL_S", 0.01)
    jobs = "/v1/fine_tuning/jobs"
    api.faults = [("/v1/files", 429, {"Retry-After": "0.1"}), (jobs, 500, {}), (f"{jobs}/", 503, {}), (jobs, 429, {})]
    assert hosted_model(await train(api, tmp_path)) == f"ft:{BASE}:ftjob-1"
    assert (len(api.files), len(api.jobs), api.faults) == (1, 1, [])


async def test_a_failed_job_says_its_own_error_and_the_next_call_tries_again(api: OpenAIApi, tmp_path: Path) -> None:
    api.fail = "The file has a line that is no chat."
    with pytest.raises(AdapterError, match=r"fine-tuning job ftjob-1 failed: The file has a line that is no chat\."):
        await train(api, tmp_path)
    assert hosted_model(await train(api, tmp_path)) == f"ft:{BASE}:ftjob-2"
    assert len(api.files) == 1


async def test_other_rows_are_another_job(api: OpenAIApi, tmp_path: Path) -> None:
    await train(api, tmp_path)
    snapshot(tmp_path / "snapshot", ROWS[1:])
    assert hosted_model(await train(api, tmp_path)) == f"ft:{BASE}:ftjob-2"
    assert len(api.files) == 2


async def test_a_wrong_key_and_a_model_that_cannot_be_tuned_name_the_setting(api: OpenAIApi, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.openai_api\.api_key: .*SEMIEVOL__TRAINING__OPENAI_API__API_KEY"):
        await train(api, tmp_path, key="wrong")
    with pytest.raises(ConfigError, match=r"training\.openai_api\.model: .*cannot be fine-tuned"):
        await train(api, tmp_path, model="gpt-none")
    assert not api.jobs


async def test_a_job_that_takes_too_long_goes_on(api: OpenAIApi, tmp_path: Path) -> None:
    api.hold = True
    with pytest.raises(TransientError, match=r"timeout_s: fine-tuning job ftjob-1 is \w+ after 0 s; it goes on"):
        await train(api, tmp_path, timeout_s=0.05)
    api.hold = False
    assert hosted_model(await train(api, tmp_path)) == f"ft:{BASE}:ftjob-1"


async def test_two_processes_do_not_pay_for_the_same_directory(api: OpenAIApi, tmp_path: Path) -> None:
    api.hold = True
    running = asyncio.create_task(train(api, tmp_path))
    await api.held.wait()
    with pytest.raises(TransientError, match="another process trains here"):
        await train(api, tmp_path)
    api.hold = False
    await running
    assert len(api.jobs) == 1


async def test_training_goes_on_from_a_fine_tuned_parent(api: OpenAIApi, tmp_path: Path) -> None:
    parent = await train(api, tmp_path / "first")
    snapshot(tmp_path / "snapshot", parent=parent)
    path = await train(api, tmp_path)
    assert api.jobs["ftjob-2"].asked["model"] == f"ft:{BASE}:ftjob-1"
    assert verify(path).parent == parent.name
