"""Records in bulk over the admin API: every one is taken, with its id, or named."""

import json
from typing import Any

import pytest

from semievol.examples.content_ids import content_id
from semievold.api.deliveries import Problem, read_delivery
from semievold.config.daemon import DaemonConfig

CONFIG = DaemonConfig.model_validate({"workload": "w", "model": {"name": "m"}, "task": {"labels": ["red", "blue"]}})
ROWS = [{"id": "e1", "question": "red 1", "answer": "red"}, {"text": "blue 1", "label": "blue"}]
OWN = [{"question": "red 1", "answer": "red"}, {"question": "blue 1", "answer": "blue"}]


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"records": OWN}).encode(),
        json.dumps({"data": OWN, "version": 1}).encode(),
        json.dumps(OWN).encode(),
        b"\xef\xbb\xbf" + json.dumps(OWN, indent=1).encode(),
        b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, OWN)).encode(),
        json.dumps([{"text": row["question"], "label": row["answer"]} for row in OWN]).encode(),
    ],
)
def test_a_body_of_any_shape_and_form_is_the_same_records(body: bytes) -> None:
    delivery = read_delivery(CONFIG, "labels", body)
    assert [json.loads(record.value or b"") for record in delivery.records] == [
        {**row, "id": content_id(row)} for row in OWN
    ]
    assert delivery.problems == []
    assert [(each["record"], each["id"]) for each in delivery.taken] == [(n, content_id(OWN[n])) for n in (0, 1)]
    assert read_delivery(CONFIG, "labels", body).records == delivery.records  # sent again, it changes nothing


def test_every_wrong_record_is_named_by_number_and_field_and_the_others_are_there() -> None:
    body = {
        "records": [
            ROWS[0],
            {"id": "e2", "question": "x", "answer": "green"},
            7,
            {"id": "e3", "answer": "red"},
            ROWS[0],
            {**ROWS[0], "answer": "blue"},
            {"id": "e4", "question": "x\ud800", "answer": "red"},
            {"id": "e5", "question": "blue 2", "answer": "blue"},
        ]
    }
    delivery = read_delivery(CONFIG, "labels", json.dumps(body).encode())
    assert [record.key for record in delivery.records] == ["e1", "e5"]
    assert delivery.taken == [
        {"record": 0, "id": "e1", "state": "published"},
        {"record": 4, "state": "repeated"},
        {"record": 7, "id": "e5", "state": "published"},
    ]
    found = [problem.as_json() for problem in delivery.problems]
    assert [(each["record"], each["field"]) for each in found] == [
        (1, "answer"),
        (2, None),
        (3, "question"),
        (5, "id"),
        (6, "question"),
    ]
    assert "record 0 has it, too" in found[3]["detail"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"train": [{"text": "x"}], "test": [{"text": "y"}]}', "holds records under 'train' and 'test'"),
        (b'[{"question": "x", "question": "y"}]', "the name 'question' is there twice"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(body: bytes, message: str) -> None:
    delivery = read_delivery(CONFIG, "queries", body)
    assert delivery.records == []
    assert [message in problem.detail for problem in delivery.problems] == [True]


@pytest.mark.parametrize("body", [b"", b"  \n"])
def test_nothing_is_no_record(body: bytes) -> None:
    delivery = read_delivery(CONFIG, "queries", body)
    assert (delivery.records, delivery.problems) == ([], [])


def test_what_is_no_json_is_named_by_its_line() -> None:
    delivery = read_delivery(CONFIG, "queries", b'{"id": 1, "question": "x"}\n{"id"\n\xff\n')
    assert [problem.record for problem in delivery.problems] == [1, 2]
    assert "is not valid JSON" in delivery.problems[0].detail
    assert "is not valid UTF-8" in delivery.problems[1].detail


def test_the_field_is_read_from_what_is_said() -> None:
    said: dict[str, Any] = {
        "field 'messages[1].content': expected": "messages[1].content",
        "messages.0.role: x": "messages.0.role",
        "a text contains": None,
    }
    assert {text: Problem(0, text).as_json()["field"] for text in said} == said
