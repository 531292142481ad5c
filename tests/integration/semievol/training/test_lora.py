"""Training as a job: the same adapter whatever happens on the way, and the mathematics of the loss."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semievol import adapter_directory
from semievol.adapter_directory import CONFIG_FILE
from semievol.config.method import ModelConfig, TrainingConfig
from semievol.engines.local import LocalGenerator
from semievol.errors import AdapterError, ConfigError, DataError, TransientError
from semievol.training import lora
from semievol.training.job import TrainingJob, write_snapshot
from semievol.training.lora import TrainedAdapter, train
from semievol.training.progress import TrainingProgress
from semievol.types import GenerationRequest, Message, TrainingRow
from semievold.serving.attestation import FingerprintEntry, attest
from tests.tiny_model import make_tiny_model

torch = pytest.importorskip("torch")

QUESTIONS = {"red or green?": "red", "one or two?": "two", "is it late?": "yes", "which day is it today?": "monday"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def rows(**weights: float) -> list[TrainingRow]:
    return [
        TrainingRow(f"q{i}", (Message("user", question),), answer, "example", weights.get(answer, 1.0))
        for i, (question, answer) in enumerate(QUESTIONS.items())
    ]


def job(model: Path, **changes: Any) -> TrainingJob:
    training = {"rank": 4, "alpha": 8, "batch_size": 2, "checkpoint_steps": 3, "dropout": 0.1, "threads": 1}
    training |= changes.pop("training", {})
    fields: dict[str, Any] = {
        "workload": "tiny",
        "round_number": 1,
        "kind": "warm",
        "seed": 11,
        "model": ModelConfig(name=str(model), dtype="float32", device="cpu"),
        "training": TrainingConfig.model_validate(training),
        "learning_rate": 2e-2,
        "epochs": 5,
        "name_prefix": "tiny-r0001",
        "fingerprint_prompts": tuple((Message("user", question),) for question in QUESTIONS),
    }
    return TrainingJob(**(fields | changes))


def run(
    place: Path, of: TrainingJob, *, on_progress: Callable[[TrainingProgress], None] | None = None
) -> TrainedAdapter:
    write_snapshot(place / "snapshot", of, rows())
    return train(place / "snapshot", place / "work", place / "adapters", on_progress)


def progress_of(place: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((place / "work" / lora.PROGRESS_FILE).read_text())
    return record


async def test_a_trained_adapter_answers_what_it_was_taught_and_its_fingerprint_proves_it(
    model: Path, tmp_path: Path
) -> None:
    seen: list[TrainingProgress] = []
    trained = run(tmp_path, job(model, epochs=60), on_progress=seen.append)
    manifest = adapter_directory.verify(trained.path)
    assert manifest == trained.manifest
    assert (manifest.training["rows"], manifest.training["steps"], manifest.parent) == (4, 120, None)
    losses = [p.loss for p in seen if p.state == "training" and p.loss is not None]
    assert losses[0] > 2
    assert losses[-1] < 0.5
    assert [p.state for p in seen if p.state != "training"] == ["starting", "fingerprinting", "publishing", "done"]
    assert progress_of(tmp_path)["state"] == "done"

    generator = LocalGenerator(ModelConfig(name=str(model), dtype="float32", device="cpu"), threads=1)
    await generator.load_adapter(trained.name, trained.path)
    answers = await generator.generate(
        [GenerationRequest((Message("user", q),), adapter=trained.name, max_tokens=8) for q in QUESTIONS]
    )
    await generator.close()
    assert [a.text for (a,) in answers] == list(QUESTIONS.values())
    for (answer,), entry in zip(answers, manifest.fingerprint[: len(QUESTIONS)], strict=True):
        assert list(answer.token_ids) == entry["token_ids"]
        assert answer.logprobs == pytest.approx(entry["logprobs"], abs=1e-5)


async def test_the_fingerprint_tells_two_trainings_on_the_same_rows_apart(model: Path, tmp_path: Path) -> None:
    first, other = [run(tmp_path / str(seed), job(model, epochs=60, seed=seed)) for seed in (1, 2)]
    entries = [FingerprintEntry.from_record(record) for record in first.manifest.fingerprint]
    generator = LocalGenerator(ModelConfig(name=str(model), dtype="float32", device="cpu"), threads=1)
    for adapter in (first, other):
        await generator.load_adapter(adapter.name, adapter.path)
    answers = {
        name: [samples[0] for samples in await generator.generate([entry.request(name) for entry in entries])]
        for name in (first.name, other.name, None)
    }
    await generator.close()
    assert attest(entries, answers[first.name], answers[None], answers[other.name], "bfloat16").passed
    swapped = attest(entries, answers[other.name], answers[None], None, "bfloat16")
    assert "wrong weights" in swapped.reason


def test_the_same_job_gives_the_same_adapter_and_another_seed_another(model: Path, tmp_path: Path) -> None:
    first = run(tmp_path / "a", job(model))
    assert run(tmp_path / "b", job(model)).manifest.content_hash == first.manifest.content_hash
    other = run(tmp_path / "c", job(model, seed=12))
    assert other.manifest.content_hash != first.manifest.content_hash


class KillError(Exception):
    pass


@pytest.mark.parametrize("step", [2, 3, 8, 10])
def test_a_killed_training_resumes_and_gives_the_same_adapter(model: Path, tmp_path: Path, step: int) -> None:
    def kill(progress: TrainingProgress) -> None:
        if progress.step == step and progress.state in ("training", "publishing"):
            raise KillError

    whole = run(tmp_path / "whole", job(model))
    with pytest.raises(KillError):
        run(tmp_path / "killed", job(model), on_progress=kill)
    seen: list[TrainingProgress] = []
    resumed = run(tmp_path / "killed", job(model), on_progress=seen.append)
    steps = [p.step for p in seen if p.state == "training"]
    assert steps == list(range((step - 1) // 3 * 3 + 1, 11))
    assert resumed.manifest.content_hash == whole.manifest.content_hash


def test_a_half_written_checkpoint_is_not_resumed(model: Path, tmp_path: Path) -> None:
    def kill(progress: TrainingProgress) -> None:
        if progress.step == 8:
            raise KillError

    whole = run(tmp_path / "whole", job(model))
    with pytest.raises(KillError):
        run(tmp_path / "killed", job(model), on_progress=kill)
    newest = tmp_path / "killed" / "work" / "checkpoints" / "checkpoint-6"
    (newest / "COMPLETE").unlink()
    (newest / "optimizer.pt").write_bytes(b"half")
    seen: list[TrainingProgress] = []
    resumed = run(tmp_path / "killed", job(model), on_progress=seen.append)
    assert seen[1].step == 4
    assert resumed.manifest.content_hash == whole.manifest.content_hash


def test_a_finished_job_is_not_trained_again(model: Path, tmp_path: Path) -> None:
    first = run(tmp_path, job(model))
    seen: list[TrainingProgress] = []
    assert run(tmp_path, job(model), on_progress=seen.append) == first
    assert seen == []


def test_checkpoints_of_another_job_are_forgotten(model: Path, tmp_path: Path) -> None:
    first = run(tmp_path, job(model))
    seen: list[TrainingProgress] = []
    second = run(tmp_path, job(model, seed=12), on_progress=seen.append)
    assert second.name != first.name
    assert seen[1].step == 1


def test_files_of_another_job_are_not_published_with_the_weights(model: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "adapter").mkdir(parents=True)
    (tmp_path / "work" / "adapter" / adapter_directory.HOSTED_FILE).write_text('{"fine_tuned_model": "ft:x"}')
    trained = run(tmp_path, job(model))
    adapter_directory.verify_weights(trained.path)
    assert not (trained.path / adapter_directory.HOSTED_FILE).exists()


def test_checkpoints_are_looked_for_once_all_processes_have_met(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semievol.training import lora_steps as lora_trainer

    def kill(progress: TrainingProgress) -> None:
        if progress.step == 8:
            raise KillError

    with pytest.raises(KillError):
        run(tmp_path, job(model), on_progress=kill)
    meet = lora_trainer.training_arguments

    def forgotten_by_the_first_one(*given: Any) -> Any:
        arguments = meet(*given)
        shutil.rmtree(tmp_path / "work" / "checkpoints")
        return arguments

    monkeypatch.setattr(lora_trainer, "training_arguments", forgotten_by_the_first_one)
    seen: list[TrainingProgress] = []
    run(tmp_path, job(model), on_progress=seen.append)
    assert seen[1].step == 1


@pytest.mark.parametrize(("processes", "setting", "threads"), [("2", None, 3), ("2", 2, 2), ("1", None, 1)])
def test_every_process_of_several_has_the_threads_that_are_its_share(
    model: Path, monkeypatch: pytest.MonkeyPatch, processes: str, setting: int | None, threads: int
) -> None:
    from semievol.training import lora_steps as lora_trainer

    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    lora_trainer._take_place(job(model, training={"threads": setting}))
    assert torch.get_num_threads() == threads


def test_continuing_from_the_incumbent_starts_at_its_weights(model: Path, tmp_path: Path) -> None:
    parent = run(tmp_path / "parent", job(model, epochs=60))
    losses: list[float] = []

    def note(progress: TrainingProgress) -> None:
        if progress.loss is not None:
            losses.append(progress.loss)

    child = run(
        tmp_path / "child",
        job(model, parent=parent.path, learning_rate=1e-4, name_prefix="tiny-r0002"),
        on_progress=note,
    )
    assert losses[0] < 0.5
    assert child.manifest.parent == parent.name
    assert child.name != parent.name


def test_a_parent_of_another_rank_is_refused(model: Path, tmp_path: Path) -> None:
    parent = run(tmp_path / "parent", job(model))
    with pytest.raises(AdapterError, match=r"do not fit training\.rank 8"):
        run(tmp_path / "child", job(model, parent=parent.path, training={"rank": 8}))


def test_gradient_accumulation_is_the_same_step_in_parts(model: Path, tmp_path: Path) -> None:
    settings = {"batch_size": 4, "dropout": 0.0}
    losses: list[list[float]] = []
    for parts in (1, 2, 4):
        seen: list[TrainingProgress] = []
        training = settings | {"gradient_accumulation": parts}
        run(tmp_path / f"{parts}", job(model, training=training), on_progress=seen.append)
        losses.append([p.loss for p in seen if p.state == "training" and p.loss is not None])
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert losses[2] == pytest.approx(losses[0], rel=2e-2)


def test_gradient_checkpointing_trains_the_same(model: Path, tmp_path: Path) -> None:
    seen: dict[bool, list[TrainingProgress]] = {False: [], True: []}
    for on, list_ in seen.items():
        training = {"dropout": 0.0, "gradient_checkpointing": on}
        run(tmp_path / str(on), job(model, training=training), on_progress=list_.append)
    losses = [[p.loss for p in list_ if p.state == "training"] for list_ in seen.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_batch_that_cannot_be_divided_among_torchruns_processes_is_a_configuration_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the configuration are divided when it is read."""
    from semievol.training.lora_steps import training_arguments

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"training\.batch_size"):
        training_arguments(job(model, training={"batch_size": 3}), tmp_path)


def test_a_diverging_training_publishes_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.learning_rate: 1e\+30 diverged"):
        run(tmp_path, job(model, learning_rate=1e30))
    assert not (tmp_path / "adapters").exists()


def test_float16_is_refused(model: Path, tmp_path: Path) -> None:
    half = ModelConfig(name=str(model), dtype="float16")
    with pytest.raises(ConfigError, match=r"model\.dtype"):
        run(tmp_path, dataclasses.replace(job(model), model=half))


def test_a_snapshot_without_rows_is_refused(model: Path, tmp_path: Path) -> None:
    write_snapshot(tmp_path / "snapshot", job(model), [])
    with pytest.raises(DataError, match="no rows"):
        train(tmp_path / "snapshot", tmp_path / "work", tmp_path / "adapters")


def test_two_trainers_never_share_a_working_directory(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "_LOCK_WAIT_S", 0.0)

    def intrude(progress: TrainingProgress) -> None:
        if progress.step == 1:
            with pytest.raises(TransientError, match="another trainer"):
                train(tmp_path / "snapshot", tmp_path / "work", tmp_path / "adapters")

    run(tmp_path, job(model), on_progress=intrude)


def test_the_written_configuration_is_plain_lora_for_every_engine(model: Path, tmp_path: Path) -> None:
    config = json.loads((run(tmp_path, job(model)).path / CONFIG_FILE).read_text())
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["bias"]) == ("LORA", 4, 8, "none")
    assert not config["modules_to_save"]
    assert not config["use_dora"]


def command(place: Path, *more: str) -> list[str]:
    paths = [f"--{name}={place / folder}" for name, folder in (("snapshot",) * 2, ("work",) * 2, ("adapters",) * 2)]
    return [sys.executable, "-m", "semievol.training.lora", *paths, *more]


def test_the_process_prints_one_json_line(model: Path, tmp_path: Path) -> None:
    write_snapshot(tmp_path / "snapshot", job(model), rows())
    ended = subprocess.run(
        command(tmp_path, "--parent-pid", str(os.getpid())), capture_output=True, text=True, check=False, timeout=100
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert adapter_directory.verify(Path(result["path"])).content_hash == result["content_hash"]
    assert json.loads((tmp_path / "work" / lora.RESULT_FILE).read_text())["name"] == result["name"]
    assert run(tmp_path / "again", job(model)).name == result["name"]


def test_a_failing_process_says_why_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "snapshot").mkdir()
    assert lora.main(command(tmp_path)[3:]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "job.json: not a training job" in err
    result = json.loads((tmp_path / "work" / lora.RESULT_FILE).read_text())
    assert result["kind"] == "DataError"
    assert progress_of(tmp_path)["state"] == "failed"


def test_a_process_whose_parent_has_gone_ends(model: Path, tmp_path: Path) -> None:
    write_snapshot(tmp_path / "snapshot", job(model, epochs=100_000), rows())
    not_the_parent = "1"
    ended = subprocess.run(
        command(tmp_path, "--parent-pid", not_the_parent), capture_output=True, check=False, timeout=60
    )
    assert ended.returncode == 75


# --- rows as batches ----------------------------------------------------------------------------------------------


def prompts_of(model: Path) -> Any:
    from semievol.engines.language_model import load_prompts

    return load_prompts(ModelConfig(name=str(model)))


def test_prompt_and_completion_are_what_the_template_writes(model: Path) -> None:
    prompts = prompts_of(model)
    messages = (Message("system", "be brief"), Message("user", "one or two?"))
    whole = prompts.tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in (*messages, Message("assistant", "two"))], tokenize=False
    )
    prompt, completion = prompts.read_completion(messages, "two")
    assert prompt == prompts.prompt_tokens(messages)
    tokens = prompt + completion.ids
    assert tokens == prompts.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert tokens[-1] == prompts.turn_end == 2


def test_a_long_prompt_loses_its_start_and_the_completion_stays_whole(model: Path) -> None:
    from semievol.training.batches import tokenize

    prompts = prompts_of(model)
    row = TrainingRow("long", (Message("user", "x" * 300 + "end"),), "answer", "example")
    found = tokenize([row], prompts, 20)
    (tokens,) = found.rows
    assert found.cut == ("long",)
    assert tokens.length == 20
    assert prompts.text(tokens.completion) == "answer"
    assert prompts.text(tokens.prompt).endswith("end")
    with pytest.raises(DataError, match="row long: its completion has 7 tokens"):
        tokenize([row], prompts, 7)


# --- conversations read as text -----------------------------------------------------------------------------------


def text_rows(*contents: str) -> list[TrainingRow]:
    return [
        TrainingRow(f"q{i}", (Message("system", "be brief"), Message("user", f"Say: {each}\nAnswer:")), "", "query")
        for i, each in enumerate(contents)
    ]


def test_of_a_text_only_what_the_others_do_not_share_is_learned(model: Path) -> None:
    from semievol.training.batches import tokenize_texts

    prompts = prompts_of(model)
    found = tokenize_texts(text_rows("red or green?", "one or two!"), prompts, 100)
    assert [prompts.text(row.completion) for row in found.rows] == ["red or green?", "one or two!"]
    assert all(prompts.text(row.prompt).endswith("Say: ") for row in found.rows)
    assert (found.cut, found.left_out) == ((), {})


def test_a_long_text_loses_its_end_and_one_that_says_nothing_is_left_out(model: Path) -> None:
    from semievol.training.batches import tokenize_texts

    prompts = prompts_of(model)
    head = len(tokenize_texts(text_rows("x", "y"), prompts, 100).rows[0].prompt)
    found = tokenize_texts(text_rows("abcdef", "xyz"), prompts, head + 4)
    assert [prompts.text(row.completion) for row in found.rows] == ["abcd", "xyz"]
    assert found.cut == ("q0",)
    with pytest.raises(DataError, match=rf"none of 2 texts can be learned; q0: it begins with {head} tokens"):
        tokenize_texts(text_rows("x", "y"), prompts, head)


def test_copies_of_one_text_are_learned_whole(model: Path) -> None:
    from semievol.training.batches import tokenize_texts

    prompts = prompts_of(model)
    rows_ = tokenize_texts(text_rows("same", "same"), prompts, 100).rows
    assert {len(row.prompt) for row in rows_} == {1}
    assert all("Say: same" in prompts.text(row.completion) for row in rows_)


def adapting(model: Path, **changes: Any) -> TrainingJob:
    return job(model, kind="adapt", round_number=0, name_prefix="adapted", fingerprint_prompts=(), **changes)


def read_texts(
    place: Path, of: TrainingJob, on_progress: Callable[[TrainingProgress], None] | None = None
) -> TrainedAdapter:
    write_snapshot(place / "snapshot", of, text_rows(*QUESTIONS))
    return train(place / "snapshot", place / "work", place / "adapters", on_progress)


def test_what_has_read_the_texts_foretells_them_and_is_the_start_of_one_lora(model: Path, tmp_path: Path) -> None:
    losses: list[float] = []

    def heard(progress: TrainingProgress) -> None:
        if progress.state == "training" and progress.loss is not None:
            losses.append(progress.loss)

    read = read_texts(tmp_path / "read", adapting(model, epochs=30), heard)
    assert losses[-1] < 0.7 * losses[0]
    assert read.manifest.training["kind"] == "adapt"
    assert read.manifest.fingerprint == ()
    assert read.name.startswith("adapted-")
    taught = run(tmp_path / "taught", job(model, parent=read.path))
    assert taught.manifest.parent == read.name
    assert taught.manifest.content_hash != run(tmp_path / "fresh", job(model)).manifest.content_hash
    shapes = [load_shapes(path) for path in (taught.path, read.path)]
    assert shapes[0] == shapes[1]


def load_shapes(adapter: Path) -> dict[str, tuple[int, ...]]:
    from safetensors.torch import load_file

    return {name: tuple(weights.shape) for name, weights in load_file(adapter / adapter_directory.WEIGHTS_FILE).items()}


def test_reading_that_was_killed_goes_on_and_ends_with_the_same_weights(model: Path, tmp_path: Path) -> None:
    whole = read_texts(tmp_path / "whole", adapting(model))

    def die(progress: TrainingProgress) -> None:
        if progress.step == 5:
            raise KillError

    with pytest.raises(KillError):
        read_texts(tmp_path / "killed", adapting(model), die)
    resumed = read_texts(tmp_path / "killed", adapting(model))
    assert resumed.manifest.training["resumed_from_step"] == 3
    assert resumed.manifest.content_hash == whole.manifest.content_hash


STRICT = (
    "{% for m in messages %}{% if 'forbidden' in m['content'] %}{{ raise_exception('no such word') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"
)


def test_a_row_that_cannot_be_trained_on_is_named_and_left_out_and_the_rest_is_trained(
    model: Path, tmp_path: Path
) -> None:
    template = tmp_path / "strict.jinja"
    template.write_text(STRICT)
    strict = ModelConfig(name=str(model), dtype="float32", device="cpu", chat_template=template)
    refused = TrainingRow("refused", (Message("user", "a forbidden word"),), "red", "example")
    endless = TrainingRow("endless", (Message("user", "?"),), "x" * 300, "example")
    long = (Message("user", "x" * 255),)
    asked = (refused.messages, long, rows()[0].messages)
    described = dataclasses.replace(job(model), model=strict, fingerprint_prompts=asked)
    write_snapshot(tmp_path / "snapshot", described, [refused, *rows(), endless])
    trained = train(tmp_path / "snapshot", tmp_path / "work", tmp_path / "adapters")
    summary = trained.manifest.training
    assert (summary["rows"], summary["rows_left_out"]) == (6, 2)
    assert "no such word" in summary["left_out"]["refused"]
    assert "has 301 tokens" in summary["left_out"]["endless"]
    prompts = [entry["messages"][-1]["content"] for entry in trained.manifest.fingerprint]
    assert "a forbidden word" not in prompts
    assert long[0].content not in prompts
    assert set(QUESTIONS) & set(prompts) == set(list(QUESTIONS)[:3])  # other rows stand in for the two


def test_a_training_of_which_no_row_can_be_used_says_so_with_the_first(model: Path, tmp_path: Path) -> None:
    from semievol.training.batches import tokenize

    with pytest.raises(DataError, match="none of 2 rows can be trained on; row q0: its completion has 4 tokens"):
        tokenize(rows()[:2], prompts_of(model), 3)


def test_rows_of_weight_zero_are_left_out(model: Path) -> None:
    from semievol.training.batches import tokenize

    prompts = prompts_of(model)
    assert len(tokenize(rows(red=0.0), prompts, 100).rows) == 3
    with pytest.raises(DataError, match="weight 0"):
        tokenize([dataclasses.replace(row, weight=0.0) for row in rows()], prompts, 100)


def test_every_epoch_shows_every_row_once_and_lengths_are_grouped() -> None:
    from semievol.training.batches import batch_order

    lengths = [(i * 37) % 101 for i in range(64)]
    order = batch_order(lengths, 4, 2, seed=3)
    assert sorted(order[:64]) == sorted(order[64:]) == list(range(64))
    assert order == batch_order(lengths, 4, 2, seed=3)
    assert order != batch_order(lengths, 4, 2, seed=4)
    spread = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in zip(*[iter(order)] * 4, strict=True)]
    assert sum(spread) / len(spread) < 25
    assert len(batch_order(lengths, 4, 0.5, seed=3)) == 32
    small = batch_order(lengths[:8], 4, 10, seed=3)
    assert all(len(set(batch)) == 4 for batch in zip(*[iter(small)] * 4, strict=True))
    assert sorted(batch_order([1] * 10, 4, 1, seed=0)) == list(range(10))


def test_a_last_batch_is_filled_up_with_rows_that_teach_nothing(model: Path) -> None:
    from semievol.training.batches import tokenize, whole_batches

    stream = tokenize(rows(), prompts_of(model), 100).rows[:3]
    filled = whole_batches(stream, 4)
    assert filled[:3] == stream
    assert [row.weight for row in filled] == [1.0, 1.0, 1.0, 0.0]
    assert whole_batches(filled, 4) == filled


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_log_whose_package_is_missing_is_refused_before_training(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"training\.log_to: .* install semievol\[{kind}\]"):
        run(tmp_path, job(model, training={"log_to": [kind]}))
    assert not (tmp_path / "adapters").exists()


def test_every_step_is_logged_to_tensorboard_and_changes_nothing(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = run(tmp_path / "plain", job(model))
    seen: list[TrainingProgress] = []
    settings = {"log_to": ["tensorboard"], "tensorboard_directory": str(tmp_path / "logs")}
    logged = run(tmp_path / "logged", job(model, training=settings), on_progress=seen.append)
    assert logged.manifest.content_hash == plain.manifest.content_hash
    digits = logged.manifest.training["snapshot_sha256"][:8]
    events = EventAccumulator(str(tmp_path / "logs" / f"tiny-tiny-r0001-{digits}")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    steps = [(p.step, p.loss) for p in seen if p.state == "training"]
    assert [step for step, _ in losses] == [step for step, _ in steps]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in steps], abs=1e-3)
    assert {"train/learning_rate", "train/grad_norm"} <= set(events.Tags()["scalars"])


def test_sharing_a_prefix_changes_neither_loss_nor_gradients(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from semievol.training import batches as training_batches
    from semievol.training.batches import collate, tokenize
    from semievol.training.lora_steps import LoraTrainer, training_arguments
    from semievol.training.lora_weights import add_adapter

    monkeypatch.setattr(training_batches, "_SHARING_PAYS_TOKENS", 1)
    of = job(model, training={"dropout": 0.0})
    tokens = tokenize(rows(yes=0.5), prompts_of(model), 100).rows
    results = []
    for share in (False, True):
        from semievol.engines.language_model import load_model

        adapted = add_adapter(load_model(of.model), of)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.05)
        trainer = LoraTrainer(adapted, training_arguments(of, model.parent / "x"), tokens, 0, share, lambda _: None)
        batch = collate(tokens, 0, share=share)
        assert ("shared_ids" in batch) == share
        loss = trainer.compute_loss(adapted, batch, num_items_in_batch=torch.tensor(10.0))
        torch.autograd.backward(loss)
        results.append((loss.item(), [p.grad for p in adapted.parameters() if p.grad is not None]))
        expected = 0.0
        for row in tokens:
            scores = model_scores(adapted, row.prompt, row.completion)
            expected -= row.weight * sum(scores) / 10
        assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert len(results[0][1]) == 28
    for left, right in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def test_one_process_trains_on_one_gpu_however_many_are_visible(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainingArguments

    from semievol.training.lora_steps import training_arguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 4))
    arguments = training_arguments(job(model), tmp_path)
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == 2


def model_scores(adapted: Any, prompt: tuple[int, ...], completion: tuple[int, ...]) -> list[float]:
    with torch.no_grad():
        logits = adapted(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].log_softmax(-1)
    start = len(prompt) - 1
    return [logits[start + i, token].item() for i, token in enumerate(completion)]


def test_importing_the_job_side_loads_no_torch() -> None:
    script = "import sys, semievol.training.lora, semievol.engines.local; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
