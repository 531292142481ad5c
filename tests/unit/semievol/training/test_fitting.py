"""The rule behind every `auto` of training."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from semievol.config.method import MethodConfig, ModelConfig, TaskConfig, TrainingConfig
from semievol.teaching import make_training_job
from semievol.training.fitting import Extent, Fitted, fitted, parameters, processes_count, suggested_dtype
from semievol.types import Message, TrainingRow
from tests.tiny_job import tiny_job


def model_of(directory: Path, *sizes: int) -> str:
    for number, size in enumerate(sizes):
        save_file({"w": torch.zeros(size // 10, 10)}, directory / f"model-{number}.safetensors", {"format": "pt"})
    return str(directory)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_700_000_000),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135_000_000),
        ("meta-llama/Llama-3.1-8B", 8_000_000_000),
        ("Qwen/Qwen2.5_0.5b_chat", 500_000_000),
        ("openai-community/gpt2", None),
        ("org/7B/model", None),
        ("org/model-4bit", None),
        ("org/0B", None),
    ],
)
def test_the_size_is_in_the_name(name: str, size: int | None) -> None:
    assert parameters(name) == size


def test_the_size_is_in_the_headers_of_the_weights(tmp_path: Path) -> None:
    assert parameters(model_of(tmp_path, 2000, 500)) == 2500


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}", b"\x04\0\0\0\0\0\0\0nope"])
def test_weights_that_cannot_be_read_have_an_unknown_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert parameters(str(tmp_path)) is None


SMOL, LLAMA = "HuggingFaceTB/SmolLM2-135M-Instruct", "meta-llama/Llama-3.1-8B"
AUTO = TrainingConfig.model_validate("auto")


def found(model: str, rows: int, tokens: int = 40, answers: int = 0, **settings: object) -> Fitted:
    """The warm round of so many rows of so many tokens, four of which are an answer, one of `answers`."""
    training = AUTO.model_copy(update=settings)
    return fitted(training, "warm", Extent(rows, 4 * rows, tokens, answers), model)


@pytest.mark.parametrize(
    ("rows", "answers", "epochs"), [(100, 20, 6.0), (385, 77, 6.0), (231, 77, 10.0), (452, 3, 3.0), (5000, 150, 2.0)]
)
def test_an_answer_that_few_rows_give_is_shown_thirty_times(rows: int, answers: int, epochs: float) -> None:
    fit = found(SMOL, rows, answers=answers)
    assert fit.epochs == epochs
    assert f"of at most 40 tokens and {answers} answers, a model" in str(fit.why)


@pytest.mark.parametrize(
    ("rows", "epochs"),
    [
        (100, 6.0),  # 20 intents: 6 by hand
        (452, 3.0),  # FPB: 3
        (580, 2.5),  # 20 intents with their pseudo-labels: 3
        (20, 12.0),
        (20_000, 2.0),
    ],
)
def test_the_passes_are_those_that_were_found_by_hand(rows: int, epochs: float) -> None:
    fit = found(SMOL, rows)
    assert (fit.epochs, fit.learning_rate, fit.training.rank, fit.training.alpha) == (epochs, 8.5e-4, 16, 32)
    assert fit.why == f"{rows:,} rows of at most 40 tokens, a model of 135 million parameters"


@pytest.mark.parametrize(
    ("rows", "epochs", "batch"), [(750, 12.0, 32), (300, 12.0, 32), (5000, 6.0, 32), (20, 12.0, 8)]
)
def test_a_small_model_gets_more_passes_at_a_higher_rate(tmp_path: Path, rows: int, epochs: float, batch: int) -> None:
    fit = found(model_of(tmp_path, 2_500_000), rows)
    assert (fit.epochs, fit.training.batch_size, fit.learning_rate) == (epochs, batch, 3.2e-3)


@pytest.mark.parametrize(("model", "rate"), [(LLAMA, 2.2e-4), ("x-70B", 1.1e-4), ("x-1000b", 5e-5), ("gpt2", 2e-4)])
def test_the_rate_falls_with_the_size(model: str, rate: float) -> None:
    assert found(model, 1000).learning_rate == rate


@pytest.mark.parametrize(
    ("rows", "tokens", "batch"), [(4999, 40, 8), (5000, 40, 16), (20_000, 40, 32), (20_000, 1024, 16), (20, 4000, 8)]
)
def test_many_rows_have_larger_batches_unless_they_are_long(rows: int, tokens: int, batch: int) -> None:
    assert found(SMOL, rows, tokens).training.batch_size == batch


def test_every_training_has_thirty_steps_and_stays_affordable() -> None:
    for model in ("x-100M", SMOL, "x-1B", LLAMA, "x-70B", "gpt2"):
        for rows in range(20, 20_000, 37):
            fit = found(model, rows)
            assert isinstance(fit.training.batch_size, int)
            steps = fit.epochs * rows / fit.training.batch_size
            assert 30 <= steps <= 2 * 20_000 / 16, (model, rows)
            assert 1e-4 <= fit.learning_rate <= 1e-3


def test_a_batch_can_be_divided_among_those_who_compute_it() -> None:
    assert found(SMOL, 100, processes=3, gradient_accumulation=2).training.batch_size == 12
    assert fitted(AUTO, "warm", Extent(100, 400, 40), SMOL, nodes=5).training.batch_size == 10


def test_the_rank_is_doubled_where_the_answers_are_more_than_it_holds() -> None:
    many = Extent(20_000, 6e6, 400)
    assert fitted(AUTO, "warm", many, SMOL).training.rank == 32
    assert fitted(AUTO, "warm", many, SMOL).training.alpha == 64
    assert fitted(AUTO, "warm", many, SMOL, most_rank=16).training.rank == 16
    assert fitted(AUTO, "warm", many, LLAMA).training.rank == 16


def test_a_continued_adapter_keeps_its_rank(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 4}')
    fit = fitted(AUTO, "evolve", Extent(100, 400, 40), SMOL, tmp_path)
    assert (fit.training.rank, fit.training.alpha) == (4, 8)


def test_what_is_stated_stays() -> None:
    stated = TrainingConfig(epochs=1, warm_epochs=5, rank=4, learning_rate="auto", warm_learning_rate=1e-2)
    warm, evolved = (fitted(stated, kind, Extent(100, 400, 40), SMOL) for kind in ("warm", "evolve"))
    assert (warm.epochs, warm.learning_rate, warm.why) == (5.0, 1e-2, None)
    assert (evolved.epochs, evolved.learning_rate) == (1.0, 8.5e-4)
    assert (evolved.training.rank, evolved.training.alpha, evolved.training.batch_size) == (4, 32, 8)
    assert evolved.said() == "1 epoch at 0.00085, batches of 8, rank 4"


@pytest.mark.parametrize(
    ("settings", "warm", "evolve", "adapt"),
    [
        ({"learning_rate": "auto", "warm_learning_rate": 1e-3}, (2, 1e-3), (2, 8.5e-4), (1, 8.5e-4)),
        ({"warm_learning_rate": "auto"}, (2, 8.5e-4), (2, 1e-4), (1, 1e-4)),
        ({"epochs": "auto", "adapt_epochs": 2}, (6, 1e-4), (6, 1e-4), (2, 1e-4)),
        ({"warm_epochs": "auto", "epochs": 3}, (6, 1e-4), (3, 1e-4), (1, 1e-4)),
        ({"learning_rate": "auto", "adapt_learning_rate": 1e-5}, (2, 8.5e-4), (2, 8.5e-4), (1, 1e-5)),
    ],
)
def test_each_kind_of_round_gets_a_job_whichever_of_them_is_left_to_the_rule(
    settings: dict[str, object], warm: tuple[float, float], evolve: tuple[float, float], adapt: tuple[float, float]
) -> None:
    training = TrainingConfig.model_validate({"adapt_epochs": 1, **settings})
    config = MethodConfig(task=TaskConfig(), model=ModelConfig(name=SMOL), training=training)
    rows = [TrainingRow(str(n), (Message("user", "x" * 36),), "y" * 16, "example") for n in range(100)]
    expected: dict[Literal["warm", "evolve", "adapt"], tuple[float, float]] = {
        "warm": warm,
        "evolve": evolve,
        "adapt": adapt,
    }
    for kind, numbers in expected.items():
        job = make_training_job(config, rows, number=1, kind=kind, parent=None)
        assert (job.epochs, job.learning_rate) == numbers, kind
        assert "auto" not in job.training.model_dump().values()


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"processes": 1}, False),
        ({"processes": 8}, False),
        ({"processes": 2, "gradient_accumulation": 4}, False),
        ({"processes": 3}, True),
        ({"processes": 16}, True),
        ({"processes": 1, "gradient_accumulation": 3}, False),
        ({"processes": 2, "gradient_accumulation": 3}, True),
    ],
)
def test_processes_count_where_a_batch_is_made_larger_for_them(settings: dict[str, int], count: bool) -> None:
    assert processes_count(AUTO.model_copy(update=settings)) == count
    assert not processes_count(TrainingConfig(batch_size=96, **settings))


def test_rows_are_measured_as_they_are_trained_on() -> None:
    rows = [TrainingRow(str(n), (Message("user", "x" * 40 * n),), "y" * 8, "example") for n in (1, 2)]
    assert Extent.of(rows, 1024, closed=False) == Extent(2, 4.0, 22.0, 0)
    assert Extent.of(rows, 1024, closed=True).answers == 1
    assert Extent.of(rows, 16, closed=False).longest == 16
    assert Extent.of([], 16, closed=True) == Extent(0, 0.0, 0.0, 0)


def test_a_job_states_all_of_its_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"training.batch_size: a job states it"):
        tiny_job(tmp_path, batch_size="auto")
    assert tiny_job(tmp_path).numbers() == {"epochs": 1, "learning_rate": 1e-2, "batch_size": 4, "rank": 4, "alpha": 8}


@pytest.mark.parametrize(("well", "dtype"), [(True, None), (False, "float32")])
def test_the_number_format_is_one_that_the_machine_computes_well(well: bool, dtype: str | None) -> None:
    assert suggested_dtype(bfloat16=well) == dtype
