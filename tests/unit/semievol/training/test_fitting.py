"""The rule by which `semievol init` sets training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from semievol.training.fitting import fitting, parameters


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


def test_a_small_model_gets_more_steps_at_a_higher_rate(tmp_path: Path) -> None:
    small = fitting(model_of(tmp_path, 2_500_000), 100)
    large = fitting("meta-llama/Llama-3.1-8B", 100)
    assert (small.warm_epochs, small.epochs, small.learning_rate) == (12, 4, 3e-3)
    assert (large.warm_epochs, large.epochs, large.learning_rate) == (6, 2, 1e-4)
    assert "2.5 million" in small.why
    assert "8 billion" in large.why


def test_many_examples_need_few_passes() -> None:
    assert fitting("SmolLM2-135M", 20).warm_epochs == 12
    assert fitting("SmolLM2-135M", 452).warm_epochs == 3
    assert fitting("SmolLM2-135M", 100_000).warm_epochs == 3


@pytest.mark.parametrize(("well", "dtype"), [(True, None), (False, "float32")])
def test_the_number_format_is_one_that_the_machine_computes_well(well: bool, dtype: str | None) -> None:
    assert fitting("SmolLM2-135M", 100, bfloat16=well).dtype == dtype
