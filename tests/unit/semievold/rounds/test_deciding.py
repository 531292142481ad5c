"""Whatever could change an answer or its being right changes a hash, and nothing else does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semievol.types import Example, Message, Query
from semievold.config.daemon import DaemonConfig
from semievold.rounds.deciding import example_hash, settings_hash


def config(**sections: Any) -> DaemonConfig:
    return DaemonConfig.model_validate({"workload": "w", "model": {"name": "m"}, **sections})


@pytest.mark.parametrize(
    "sections",
    [
        {"task": {"max_answer_tokens": 8}},
        {"task": {"template": "Q: {question}"}},
        {"task": {"instruction": "Be brief."}},
        {"task": {"labels": ["a", "b"]}},
        {"model": {"name": "other"}},
        {"model": {"name": "m", "revision": "r"}},
        {"model": {"name": "m", "dtype": "float32"}},
        {"generation": {"kind": "vllm", "replicas": ["http://h:1"]}},
        {"embedding": {"kind": "hashing"}},
    ],
)
def test_a_setting_that_decides_answers_changes_the_hash(sections: dict[str, Any]) -> None:
    assert settings_hash(config(**sections)) != settings_hash(config())


@pytest.mark.parametrize(
    "sections",
    [
        {"workload": {"name": "w", "alias": "assistant"}},
        {"training": {"epochs": 5}},
        {"gate": {"min_holdout": 30}},
        {"generation": {"threads": 3, "max_batch": 4}},
        {"trigger": {"new_pseudo_labels": 5}},
        {"api": {"port": 9}},
    ],
)
def test_a_setting_that_decides_none_does_not(sections: dict[str, Any]) -> None:
    assert settings_hash(config(**sections)) == settings_hash(config())


def test_another_template_or_model_under_the_same_name_changes_the_hash(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    template = tmp_path / "chat.jinja"
    template.write_text("one")
    here = config(model={"name": str(tmp_path), "chat_template": str(template)})
    before = settings_hash(here)
    assert settings_hash(here) == before
    template.write_text("two")
    changed = settings_hash(here)
    assert changed != before
    (tmp_path / "config.json").write_text("{ }")
    assert settings_hash(here) != changed


def test_an_example_is_the_same_as_long_as_question_and_right_answers_are() -> None:
    example = Example(Query("e", "which?", ("x", "y")), "A", "crm", ("B",))
    same = replace(example, source=None, query=replace(example.query, id="f", category="c", metadata={"k": 1}))
    assert example_hash(same) == example_hash(example)
    for other in (
        replace(example, answer="B"),
        replace(example, alternatives=()),
        replace(example, query=replace(example.query, question="what?")),
        replace(example, query=replace(example.query, options=("y", "x"))),
        replace(example, query=replace(example.query, messages=(Message("user", "which?"),))),
    ):
        assert example_hash(other) != example_hash(example)
