import json
from pathlib import Path
from typing import Any

import pytest

from semievol.config.method import MethodConfig, ModelConfig, TaskConfig
from semievol.errors import ConfigError, DataError
from semievol.examples.choices import LEAST_EXAMPLES, settled, shared_options
from semievol.examples.files import read_examples, read_queries
from semievol.tasks.task import Task
from semievol.types import Query

OPTIONS = ["negative", "neutral", "positive"]


def records(count: int = LEAST_EXAMPLES, options: object = OPTIONS, answer: str = "B") -> list[dict[str, Any]]:
    return [
        {"id": f"e{number}", "question": f"How is {number}?", "options": options, "answer": answer}
        for number in range(count)
    ]


def written(directory: Path, rows: list[dict[str, Any]]) -> Path:
    path = directory / "examples.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def config(**task: Any) -> MethodConfig:
    return MethodConfig(model=ModelConfig(name="tiny"), task=TaskConfig(form="multiple_choice", **task))


# --- which options are a closed set ---------------------------------------------------------------------------------


def test_options_that_all_have_are_a_closed_set_in_whatever_order_and_case() -> None:
    rows = [*records(4), *records(1, ["Positive", "neutral", "negative"])]
    assert shared_options(rows) == ("negative", "neutral", "positive")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        records(LEAST_EXAMPLES - 1),
        [*records(), *records(1, ["yes", "no"])],
        [*records(), *records(1, [*OPTIONS, "mixed"])],
        [*records(), {"question": "x", "answer": "neutral"}],
        records(options=["yes", "Yes"]),
        records(options=["A", "B", "C"]),
        records(options=["1", "2", "3"]),
        records(options=["alone"]),
        records(options=["", "b c"]),
    ],
)
def test_other_options_are_not(rows: list[dict[str, Any]]) -> None:
    assert shared_options(rows) is None


def test_a_run_on_files_answers_the_same_options_by_their_texts(tmp_path: Path) -> None:
    path = written(tmp_path, [*records(), {**records(1)[0], "id": "turned", "options": OPTIONS[::-1], "answer": "A"}])
    found = settled(config(), path)
    assert found.task.labels == ("negative", "neutral", "positive")
    examples = read_examples(path, Task(found.task))
    assert [each.answer for each in examples] == ["neutral"] * LEAST_EXAMPLES + ["positive"]
    assert settled(found, path) is found  # a run that goes on settles the same


def test_letters_stay_where_they_are_asked_for_or_options_differ(tmp_path: Path) -> None:
    path = written(tmp_path, records())
    assert settled(config(answer_as="letter"), path).task.labels is None
    path = written(tmp_path, [*records(), {**records(1, ["yes", "no"])[0], "id": "other"}])
    assert settled(config(), path).task.labels is None
    with pytest.raises(DataError, match=r"answer_as is text, and not all examples have the same options"):
        settled(config(answer_as="text"), path)


# --- which answers are ------------------------------------------------------------------------------------------------


def asking(labelling: dict[str, Any], **task: Any) -> MethodConfig:
    return MethodConfig.model_validate({"model": {"name": "tiny"}, "task": task, "labelling": labelling})


def answered(answers: list[str]) -> list[dict[str, Any]]:
    return [{"id": f"e{n}", "question": f"How is {n}?", "answer": answer} for n, answer in enumerate(answers)]


@pytest.mark.parametrize("part", ["consensus", "probe"])
def test_what_takes_a_closed_set_reads_it_off_the_examples_and_says_so(
    part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, answered(["good", "bad", "Good", "good"]))
    with caplog.at_level("INFO"):
        found = settled(asking({part: {}}), path)
    assert found.task.labels == ("good", "bad")
    assert "examples.jsonl: its 2 different answers are taken for task.labels" in caplog.text
    assert settled(asking({}), path).task.labels is None  # an open set stays one where nothing needs it closed
    assert settled(asking({part: {}}, labels=["good", "bad", "ugly"]), path).task.labels == ("good", "bad", "ugly")


@pytest.mark.parametrize("answers", [[f"name {n}" for n in range(30)], ["one"] * 9, ["yes", "no", "x" * 61]])
def test_answers_that_are_no_closed_set_are_refused_where_one_is_needed(answers: list[str], tmp_path: Path) -> None:
    path = written(tmp_path, answered(answers))
    with pytest.raises(ConfigError, match=r"labelling\.probe: needs task\.labels.*examples\.jsonl shows no closed set"):
        settled(asking({"probe": {}}), path)


# --- the task with options as labels --------------------------------------------------------------------------------

TEXT = Task(TaskConfig(form="multiple_choice", answer_as="text", labels=tuple(OPTIONS)))
ASKED = Query("q", "How is it?", options=("positive", "neutral", "negative"))


@pytest.mark.parametrize(
    ("answer", "canonical"), [("A", "positive"), ("c", "negative"), ("Positive", "positive"), ("neutral", "neutral")]
)
def test_a_letter_means_the_option_of_its_own_query(answer: str, canonical: str) -> None:
    assert TEXT.canonical(answer, ASKED) == canonical
    assert TEXT.canonical(TEXT.canonical(answer, ASKED), ASKED) == canonical


def test_numbers_of_options_are_read_as_the_task_says() -> None:
    zero = Task(TaskConfig(form="multiple_choice", answer_as="text", labels=tuple(OPTIONS), answer_index=0))
    assert zero.canonical("0", ASKED) == "positive"
    with pytest.raises(DataError, match=r"set task\.answer_index"):
        TEXT.canonical("1", ASKED)


def test_the_model_sees_no_letters_and_says_words() -> None:
    (turn,) = TEXT.prompt(ASKED)
    assert turn.content == "How is it?"
    assert TEXT.choices(ASKED) == tuple(OPTIONS)
    assert TEXT.parse("Answer: Positive.", ASKED) == "positive"


def test_queries_may_leave_their_options_out_but_not_bring_others() -> None:
    TEXT.check_query(Query("q", "How is it?"))
    TEXT.check_query(ASKED)
    for options in (("yes", "no"), ("negative", "neutral"), (*OPTIONS, "neutral")):
        with pytest.raises(DataError, match=r"field 'options': are not the 3 of task\.labels"):
            TEXT.check_query(Query("q", "How is it?", options=options))
    with pytest.raises(DataError, match=r"not one of the 3 labels"):
        TEXT.canonical("B", Query("q", "How is it?"))


def test_a_query_with_other_options_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text('{"id": "1", "question": "x"}\n{"id": "2", "question": "y", "options": ["yes", "no"]}\n')
    with pytest.raises(DataError, match=r"queries\.jsonl.*2.*answer_as: letter"):
        read_queries(path, TEXT)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"form": "multiple_choice", "answer_as": "letter", "labels": ["a b", "c d"]}, "with answer_as: text"),
        ({"form": "classification", "answer_as": "text"}, "belongs to form multiple_choice"),
        ({"form": "numeric", "labels": ["a b", "c d"]}, "labels belong to form classification"),
    ],
)
def test_settings_that_contradict_are_refused(task: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TaskConfig(**task)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"answer_as": "text"}, r"needs the options of every query as task\.labels"),
        ({"answer_as": "text", "labels": ("A", "B")}, "reads like the letter or number of an option"),
        ({"labels": ("1", "2")}, "reads like the letter or number of an option"),
    ],
)
def test_labels_that_are_missing_or_read_like_letters_are_refused(task: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Task(TaskConfig(form="multiple_choice", **task))
