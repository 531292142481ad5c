"""The converted demo model: what a GGUF file does not carry over by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semievold.demo import model

DIRECTORY = Path(__file__).parents[4] / ".cache" / "models" / model.NAME


@pytest.fixture(scope="module")
def directory() -> Path:
    if not model.is_complete(DIRECTORY):
        pytest.skip("no demo model; make model brings it")
    return DIRECTORY


def test_generation_ends_where_the_chat_template_ends_a_turn(directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "refund"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text.endswith(f"<|im_start|>assistant\nrefund{model.END_OF_TURN}\n")
    settings = json.loads((directory / "generation_config.json").read_text())
    assert settings["eos_token_id"] == tokenizer.convert_tokens_to_ids(model.END_OF_TURN)


def test_digits_are_read_one_by_one_as_in_training(directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.tokenize("2024") == ["2", "0", "2", "4"]
