"""Answers that a command keeps beside its output."""

from __future__ import annotations

from pathlib import Path

import pytest

from semievol.commands.kept_answers import beside, kept_answers
from semievol.config.method import MethodConfig, ModelConfig
from semievol.errors import ConfigError
from tests.scripted import ScriptedGenerator


async def test_one_run_at_a_time_keeps_its_answers_in_a_file(tmp_path: Path) -> None:
    """Two would cut off each other's lines, and find other answers where they think their own are."""
    config, path = MethodConfig(model=ModelConfig(name="m")), beside(tmp_path / "labels.jsonl")
    generator = ScriptedGenerator(lambda request: ["yes"])
    async with kept_answers(generator, config, path):
        with pytest.raises(ConfigError, match="another run keeps its answers there"):
            async with kept_answers(generator, config, path):
                pass
    async with kept_answers(generator, config, path):
        pass
