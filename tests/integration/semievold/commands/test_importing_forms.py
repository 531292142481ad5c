"""`labels import` and `queries import` of every form, of marked files and pipes: the stream gets records of our own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from semievol.config.data import DataConfig
from semievol.errors import DataError
from semievol.examples.content_ids import content_id
from semievold.commands.importing import publish_file
from semievold.config.daemon import DaemonConfig
from semievold.intake.bulk import What
from semievold.store.stores import Stores, open_stores
from semievold.streams.opening import open_stream

MARK = b"\xef\xbb\xbf"
OWN = {"question": "where is my parcel", "answer": "delivery"}
ID = content_id(OWN)


class Workload:
    """One workload's stream, and what lies in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = DaemonConfig.model_validate(
            {"workload": "w", "model": {"name": "m"}, "artifacts": {"directory": directory / "data"}}
        )
        self.stores: Stores = open_stores(self.config.store_url, "w", "w")

    def import_(self, what: What, name: str, content: bytes, *, skip_invalid: bool = False) -> dict[str, Any]:
        (self.directory / name).write_bytes(content)
        return self.published_from(what, str(self.directory / name), skip_invalid=skip_invalid)

    def published_from(self, what: What, source: str, *, skip_invalid: bool = False) -> dict[str, Any]:
        return asyncio.run(publish_file(self.config, self.stores, what, source, skip_invalid=skip_invalid, raw=False))

    def records(self, what: What) -> list[dict[str, Any]]:
        topic = self.config.stream.queries if what == "queries" else self.config.stream.labels
        return asyncio.run(self._read(topic))

    async def _read(self, topic: str) -> list[dict[str, Any]]:
        consumer = open_stream(self.config.stream, self.stores.database).consumer(topic, "reader")
        records = await consumer.poll(100, 0.0)
        await consumer.close()
        return sorted((json.loads(record.value or b"") for record in records), key=lambda value: str(value["id"]))


@pytest.fixture
def workload(tmp_path: Path) -> Iterator[Workload]:
    opened = Workload(tmp_path)
    yield opened
    opened.stores.database.close()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.jsonl", json.dumps({"text": OWN["question"], "label": OWN["answer"]}).encode()),
        ("l.json", json.dumps([OWN]).encode()),
        ("l.tsv", b"question\tanswer\nwhere is my parcel\tdelivery\n"),
        ("l.csv", MARK + b"question;answer\r\nwhere is my parcel;delivery\r\n"),
        (
            "l.jsonl",
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": OWN["question"]},
                        {"role": "assistant", "content": OWN["answer"]},
                    ]
                }
            ).encode(),
        ),
    ],
)
def test_every_form_is_published_as_our_own(workload: Workload, name: str, content: bytes) -> None:
    report = workload.import_("labels", name, content)
    assert (report["published"], report["invalid"]) == (1, 0)
    assert report["form"].startswith("read as ")
    assert workload.records("labels") == [{**OWN, "id": ID}]
    workload.import_("queries", name, content)
    assert workload.records("queries") == [{"question": OWN["question"], "id": ID}]  # without the answer


def test_a_mark_of_byte_order_is_passed_over_in_files_and_pipes(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = b'{"id":"q900","question":"red 3"}\r\n'
    workload.import_("queries", "q.jsonl", MARK + line + MARK + line.replace(b"900", b"901"))
    assert [record["id"] for record in workload.records("queries")] == ["q900", "q901"]
    for content in (MARK + line.replace(b"900", b"902"), MARK + b'[{"id": "q903", "question": "x"},\n{"text": "y"}]'):
        reading, writing = os.pipe()
        os.write(writing, content)
        os.close(writing)
        with os.fdopen(reading) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            try:
                workload.published_from("queries", "-")
            except DataError as error:
                assert str(error).startswith("-: record 2: id: missing")  # noqa: PT017 - of the array alone
    assert [record["id"] for record in workload.records("queries")][2:] == ["q902", "q903"]


def test_what_is_wrong_is_named_and_the_rest_goes_on_where_that_is_wanted(workload: Workload) -> None:
    good, other = b'{"id": 1, "question": "x"}\n', b'{"id": 1, "question": "y"}\n'
    content = good + b'{"id": \n\xff\n{"id": 2}\n' + other + good
    with pytest.raises(DataError, match=r"q.jsonl:2: is not valid JSON .*--skip-invalid publishes the rest"):
        workload.import_("queries", "q.jsonl", content)
    assert workload.records("queries") == []
    report = workload.import_("queries", "q.jsonl", content, skip_invalid=True)
    assert (report["published"], report["repeated"], report["invalid"]) == (1, 1, 4)
    assert [problem.split(": ")[0] for problem in report["problems"]] == [f"q.jsonl:{line}" for line in (2, 3, 4, 5)]
    assert "'1' is used twice: q.jsonl:1 has it, too" in report["problems"][3]


def test_a_quote_that_is_never_closed_publishes_nothing(workload: Workload) -> None:
    content = b'id,question\n1,"red 5"" pipe\n2,green 3\n'
    with pytest.raises(DataError, match=r"q.csv:2: a quotation mark opens a cell here and is never closed"):
        workload.import_("queries", "q.csv", content, skip_invalid=True)
    assert workload.records("queries") == []


def test_columns_of_the_configuration_are_heeded(workload: Workload) -> None:
    workload.config = workload.config.model_copy(
        update={"data": DataConfig(columns={"question": "utterance", "answer": "intent"}, label_names=("a", "b"))}
    )
    workload.import_("labels", "l.csv", b"utterance,intent,team\nx,1,red\n")
    assert workload.records("labels") == [
        {"question": "x", "answer": "b", "team": "red", "id": content_id({"question": "x"})}
    ]


def test_half_a_surrogate_pair_is_named_by_its_field(workload: Workload) -> None:
    with pytest.raises(DataError, match=r"q.jsonl:1: field 'question': contains half of a surrogate pair"):
        workload.import_("queries", "q.jsonl", b'{"id": 1, "question": "a\\ud800b"}')
