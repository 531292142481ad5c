"""Answers that are kept on disk: found again, and never taken for those of something else."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semievol.engines.answer_file import AnswerFile
from semievol.engines.remembered import RememberedAnswers
from semievol.types import Completion, GenerationRequest, Message
from tests.scripted import ScriptedGenerator

ENGINE = {"model": {"name": "m"}}
ASKED = GenerationRequest((Message("user", "which\nöne?"),), samples=2, temperature=1.0, seed=5, adapter="r0001")
ANSWER = [Completion(f"{n}\u2028\n", (1, 2), (-0.25, -math.inf), "stop", "r0001", 7) for n in range(2)]


def test_an_answer_is_found_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first = AnswerFile(path, ENGINE)
    assert first.get(ASKED, "v1") is None
    assert not path.exists()
    first.add(ASKED, "v1", ANSWER)
    assert AnswerFile(path, ENGINE).get(ASKED, "v1") == ANSWER  # while the first is still open
    assert first.get(ASKED, "v1") == ANSWER


def test_an_answer_that_an_earlier_version_wrote_down_still_counts(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerFile(path, ENGINE).add(ASKED, "v1", ANSWER)
    line = json.loads(path.read_text())
    path.write_text(json.dumps({**line, "key": "2d08370c954519c1fd8065f2ff239468"}) + "\n")  # as of 2026-11-29
    assert AnswerFile(path, ENGINE).get(ASKED, "v1") == ANSWER


@pytest.mark.parametrize("other", [{"prompt_ids": (1, 2)}, {"turn": "a"}, {"time_s": 1.0}, {"interactive": True}])
def test_who_asks_and_how_makes_no_other_answer(tmp_path: Path, other: dict[str, Any]) -> None:
    file = AnswerFile(tmp_path / "answers.jsonl", ENGINE)
    file.add(ASKED, "v1", ANSWER)
    assert file.get(replace(ASKED, **other), "v1") == ANSWER


@pytest.mark.parametrize(
    "other",
    [
        {"messages": (Message("user", "which two?"),)},
        {"samples": 1},
        {"temperature": 0.5},
        {"seed": 6},
        {"max_tokens": 5},
        {"model": "big"},
        {"choices": ("a", "b")},
    ],
)
def test_another_request_has_another_answer(tmp_path: Path, other: dict[str, Any]) -> None:
    file = AnswerFile(tmp_path / "answers.jsonl", ENGINE)
    file.add(ASKED, "v1", ANSWER)
    assert file.get(replace(ASKED, **other), "v1") is None


def test_another_model_or_adapter_has_other_answers(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "answers.jsonl", ENGINE)
    file.add(ASKED, "v1", ANSWER)
    assert file.get(ASKED, "v2") is None
    assert AnswerFile(tmp_path / "answers.jsonl", {"model": {"name": "n"}}).get(ASKED, "v1") is None


def test_lines_that_are_cut_off_or_damaged_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    requests = [replace(ASKED, seed=seed) for seed in range(3)]
    file = AnswerFile(path, ENGINE)
    for request in requests:
        file.add(request, "v1", ANSWER)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"\xff{", lines[2][:20]]))
    again = AnswerFile(path, ENGINE)
    assert [again.get(request, "v1") == ANSWER for request in requests] == [True, False, False]
    again.add(requests[2], "v1", ANSWER)
    assert AnswerFile(path, ENGINE).get(requests[2], "v1") == ANSWER


async def test_what_came_before_the_engine_left_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    inner = ScriptedGenerator(lambda request: ["a"])
    requests = [GenerationRequest((Message("user", str(n)),)) for n in range(3)]
    await RememberedAnswers(inner, AnswerFile(path, ENGINE)).generate(requests[:2])
    again = await RememberedAnswers(inner, AnswerFile(path, ENGINE)).generate(requests)
    assert [samples[0].text for samples in again] == ["a", "a", "a"]
    assert inner.calls == [requests[:2], requests[2:]]
