"""Items go to labelling tools and come back as what was said of them, or with what is wrong."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from semievol.errors import DataError
from semievold.review.exchange import FORMATS, exported, said_in

ITEMS: list[dict[str, Any]] = [
    {
        "review": "0" * 32,
        "id": "a,1",
        "purpose": "teach",
        "question": 'is "it"\neven?',
        "candidates": [{"answer": "odd"}, {"answer": "even"}],
        "answers": ["even", "odd"],
    },
    {
        "review": "f" * 32,
        "id": "b",
        "purpose": "gate",
        "messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": "und 3? ½"}],
        "candidates": [],
        "answers": None,
    },
]
ALL = {item["review"]: item["id"] for item in ITEMS}


def annotated(task: dict[str, Any], *answers: str, kind: str = "choices", **more: Any) -> dict[str, Any]:
    """As Label Studio exports a task (JSON)."""
    results = [
        {"result": [{"from_name": "answer", "to_name": "q", "type": kind, "value": {kind: [answer]}}], **more}
        for answer in answers
    ]
    return {"id": 7, "project": 1, **task, "annotations": results, "predictions": []}


def responded(record: dict[str, Any], *answers: str, status: str = "submitted") -> dict[str, Any]:
    """As Argilla exports a record."""
    given = [{"value": answer, "user_id": "u", "status": status} for answer in answers]
    return {**record, "_server_id": "x", "status": "completed", "vectors": {}, "responses": {"answer": given}}


@pytest.mark.parametrize("kind", ["choices", "text"])
def test_label_studios_tasks_come_back_with_the_names_of_their_items(kind: str) -> None:
    tasks = json.loads(exported(ITEMS, "labelstudio"))
    assert tasks[0]["data"]["answers"] == ["even", "odd"]
    assert tasks[1]["data"]["question"] == "user: hi\nuser: und 3? ½"
    said = [said_in(annotated(task, "even", "even", kind=kind)) for task in tasks]
    assert [(each.review, each.query_id, each.answer) for each in said if each] == [
        (name, id_, "even") for name, id_ in ALL.items()
    ]
    small = [{**task["data"], "id": 3, "annotator": 1, "answer": {"choices": ["odd"]}} for task in tasks]
    assert [each.review for row in small if (each := said_in(row))] == list(ALL)
    assert said_in(annotated(tasks[0], "even", was_cancelled=True)) is None
    assert said_in(annotated(tasks[0])) is None


def test_argillas_records_come_back_with_the_names_of_their_items() -> None:
    records = json.loads(exported(ITEMS, "argilla"))
    assert records[0]["fields"] == {"question": 'is "it"\neven?', "candidates": "odd\neven"}
    said = [said_in(responded(record, "even")) for record in records]
    assert [(each.review, each.query_id, each.answer) for each in said if each] == [
        (name, id_, "even") for name, id_ in ALL.items()
    ]
    assert said_in(responded(records[0], "even", status="discarded")) is None
    assert [said_in(record) for record in records] == [None, None]


def test_a_table_comes_back_when_its_column_is_filled_in() -> None:
    rows = list(csv.DictReader(io.StringIO(exported(ITEMS, "csv"), newline="")))
    assert [row["question"] for row in rows] == ['is "it"\neven?', "user: hi\nuser: und 3? ½"]
    assert [said_in(row) for row in rows] == [None, None]
    said = [said_in({**row, "answer": " odd "}) for row in rows]
    assert [(each.review, each.answer) for each in said if each] == [(name, "odd") for name in ALL]


def test_no_form_says_how_the_models_answered_at_a_gate() -> None:
    for form in FORMATS:
        text = exported(ITEMS[1:], form)
        assert "even" not in text.replace("even?", "")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"answer": "odd"}, "'review': missing"),
        ({"review": "", "id": None, "answer": "odd"}, "'review': missing"),
        ({"review": "0" * 32, "answer": {"a": 1}}, "'answer': expected a text"),
        ({"review": ["x"], "answer": "odd"}, "'review': expected a text"),
        ({"data": 3, "annotations": []}, "'data': expected an object"),
        ({"data": {"review": "x"}, "annotations": {}}, "'annotations': expected a list"),
        ({"data": {"review": "x"}, "annotations": [3]}, "'annotations.0.result'"),
        ({"data": {"review": "x"}, "annotations": [{"result": [{"value": 1}]}]}, "'annotations.0.result'"),
        (
            {"data": {"review": "x"}, "annotations": [{"result": [{"value": {"rating": 3}}]}]},
            "neither choices nor text",
        ),
        ({"data": {"question": "x"}, "annotations": []}, "'review': missing"),
        ({"id": "x", "fields": {}, "responses": []}, "'responses': expected an object"),
        ({"id": "x", "fields": {}, "responses": {"label": [{"value": "odd"}]}}, "no question is called 'answer'"),
        ({"id": "x", "fields": {}, "responses": {"answer": "odd"}}, "'responses.answer': expected a list"),
        ({"id": "x", "fields": {}, "responses": {"answer": ["odd"]}}, "'responses.answer.0'"),
    ],
)
def test_what_no_tool_exports_is_refused_with_the_field(row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match="field") as refused:
        said_in(row)
    assert words in str(refused.value)


def test_of_annotators_who_differ_nobody_is_believed() -> None:
    (task, _), (record, _) = (json.loads(exported(ITEMS, form)) for form in ("labelstudio", "argilla"))
    for row in (annotated(task, "even", "odd"), responded(record, "even", "odd")):
        with pytest.raises(DataError, match="annotators differ: 'even', 'odd'"):
            said_in(row)
