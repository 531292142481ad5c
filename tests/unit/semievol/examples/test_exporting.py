"""What is exported is read back as it was."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from semievol.config.method import TaskConfig
from semievol.errors import ConfigError, DataError
from semievol.examples.exporting import FORMS, ExportForm, exported, write_examples
from semievol.examples.files import read_examples
from semievol.tasks.task import Task
from semievol.types import Example, Message, Query

FREE = Task(TaskConfig(form="short_answer"))
CHOICE = Task(TaskConfig(form="multiple_choice"))
MARKED = Query("2", '5" pipe\nnext "line"', category="[INST]", metadata={"a": [1, None]})
EXAMPLES = [
    Example(Query("1", "where, is; my\tparcel"), "delivery"),
    Example(MARKED, "a, b", "crm", ("b", "a|b")),
    Example(Query("3", " leading, and trailing "), "=1+1"),
]
TURNS = (Message("system", "s"), Message("user", "x"), Message("assistant", "y"), Message("user", "and now?"))
TALK = Example(Query("4", "and now?", messages=TURNS), "z")
OPTIONS = [Example(Query("1", "which?", ("a|b", "c")), "B"), Example(Query("2", "how?", ("no", "yes")), "A")]


@pytest.mark.parametrize("name", ["e.jsonl", "e.json", "e.csv", "e.tsv", "e.jsonl.gz", "e.csv.gz"])
@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_read_back_to_the_same_examples(tmp_path: Path, name: str, form: ExportForm) -> None:
    path = tmp_path / name
    assert write_examples(path, EXAMPLES, form) == 3
    assert read_examples(path, FREE) == EXAMPLES
    write_examples(path, OPTIONS, form)
    assert read_examples(path, CHOICE) == OPTIONS


@pytest.mark.parametrize("name", ["e.jsonl", "e.csv"])
@pytest.mark.parametrize("form", ["own", "openai", "sharegpt"])
def test_a_conversation_keeps_its_turns(tmp_path: Path, name: str, form: ExportForm) -> None:
    write_examples(tmp_path / name, [TALK], form)
    assert read_examples(tmp_path / name, FREE) == [TALK]


def test_what_a_form_cannot_hold_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="id '4': is a conversation, which text-label cannot hold; use openai or own"):
        write_examples(tmp_path / "e.csv", [*EXAMPLES, TALK], "text-label")
    with pytest.raises(ConfigError, match=r"unknown file type '.xlsx'"):
        write_examples(tmp_path / "e.xlsx", EXAMPLES, "own")
    assert list(tmp_path.iterdir()) == []


def test_openais_form_is_what_its_fine_tuning_takes() -> None:
    row = exported(EXAMPLES[0], "openai")
    assert row["messages"] == [
        {"role": "user", "content": "where, is; my\tparcel"},
        {"role": "assistant", "content": "delivery"},
    ]


TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])).filter(
    lambda text: bool(text.strip())
)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)


@given(PAIRS, st.sampled_from(FORMS), st.sampled_from(["csv", "tsv", "jsonl", "json"]))
def test_any_text_survives(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], form: ExportForm, kind: str
) -> None:
    path = tmp_path_factory.mktemp("export") / f"e.{kind}"
    assume(all(FREE.parse(told, Query("q", "x")) for _, told in pairs))  # `Answer:` alone is no answer
    examples = [
        Example(Query(str(number), asked), FREE.canonical(told, Query("q", "x")))
        for number, (asked, told) in enumerate(pairs)
    ]
    write_examples(path, examples, form)
    assert read_examples(path, FREE) == examples
