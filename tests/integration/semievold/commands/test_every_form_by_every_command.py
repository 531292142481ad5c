"""Every form of file by every command that reads one, through the command line: records and ids are those of our own.

A stand-in for OpenAI's API answers and trains, so that each command runs to its end.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from semievol.commands import cli
from semievol.config.file import load_config
from semievol.config.method import SERVICE_SECTIONS, MethodConfig
from semievol.examples.content_ids import content_id
from semievol.examples.files import read_examples, read_queries
from semievol.tasks.task import Task
from semievold.api.deliveries import read_delivery
from semievold.config.daemon import DaemonConfig
from semievold.store.stores import open_stores
from semievold.streams.opening import open_stream
from tests.openai_api import BASE, KEY, OpenAIApi

TOLD = ("a", "b") * 5  # the stand-in trains on no fewer than ten
ASKED = tuple(f"say {told} {number}" for number, told in enumerate(TOLD))
PAIRS = list(zip(ASKED, TOLD, strict=True))
IDS = [content_id({"question": question}) for question in ASKED]


def lines(row: Callable[[str, str], dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row(*pair)) + "\n" for pair in PAIRS).encode()


def document(row: Callable[[str, str], dict[str, Any]]) -> bytes:
    return json.dumps([row(*pair) for pair in PAIRS], indent=1).encode()


def table(separator: str, *names: str) -> bytes:
    return "\r\n".join(separator.join(cells) for cells in [names, *PAIRS]).encode()


def own(question: str, answer: str) -> dict[str, Any]:
    return {"question": question, "answer": answer}


def openai(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def sharegpt(question: str, answer: str) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def alpaca(question: str, answer: str) -> dict[str, Any]:
    return {"instruction": question, "input": "", "output": answer}


MARK = b"\xef\xbb\xbf"
MAPPED = "question=utterance,answer=intent"
FORMS: dict[str, tuple[bytes, str | None]] = {
    "noid.jsonl": (lines(own), None),
    "noid.jsonl.gz": (gzip.compress(lines(own)), None),
    "twice.jsonl.gz": (gzip.compress(gzip.compress(lines(own))), None),
    "array.json": (document(own), None),
    "array.json.gz": (gzip.compress(MARK + document(own)), None),
    "below.json": (b'{"version": 1, "data": ' + document(own) + b"}", None),
    "null-ids.jsonl": (lines(lambda question, answer: {"id": None, **own(question, answer)}), None),
    "hf.jsonl": (lines(lambda question, answer: {"text": question, "label": answer, "split": "train"}), None),
    "capitals.jsonl": (lines(lambda question, answer: {"Text": question, "Label": answer}), None),
    "hf.csv": (table(",", "Text", "LABEL"), None),
    "own.tsv": (MARK + table("\t", "question", "answer"), None),
    "trl.jsonl": (lines(lambda question, answer: {"prompt": question, "completion": answer}), None),
    "alpaca.jsonl": (lines(alpaca), None),
    "openai.jsonl": (lines(openai), None),
    "sharegpt.jsonl": (lines(sharegpt), None),
    "mapped.jsonl": (lines(lambda question, answer: {"utterance": question, "intent": answer}), MAPPED),
    "mapped.csv": (table(";", "Utterance", "Intent"), MAPPED),
    "turns.jsonl": (lines(lambda *pair: {**openai(*pair), "answer": "no"}), "answer=messages"),
}
JSON_FORMS = [name for name in FORMS if ".json" in name]


class Programs:
    """`semievol` with the daemon's commands, in this process."""

    def __init__(self, api: OpenAIApi, directory: Path) -> None:
        self.api = api
        self.directory = directory
        self.config = directory / "c.yaml"
        self.config.write_text(
            f"workload: w\nmodel: {{name: {BASE}}}\ntask: {{labels: [a, b], max_answer_tokens: 4}}\n"
            "embedding: {kind: hashing, dimensions: 32}\nselection: {theta: 1.0, min_agreement: 0}\n"
            f"generation: {{kind: openai, base_url: '{api.url}', model: {BASE}, api_key: {KEY}}}\n"
            "labelling: {justify: false, configurations: [{name: greedy, temperature: 0, neighbours: 1}]}\n"
            "training: {kind: openai_api, openai_api: {poll_interval_s: 0.01}}\n"
        )
        (directory / "other.jsonl").write_text('{"question": "say a b", "answer": "a"}\n')
        self.daemons = directory / "daemon.yaml"
        self.daemons.write_text(
            f"workload: w\nmodel: {{name: {BASE}}}\ntask: {{labels: [a, b]}}\n"
            f"artifacts: {{directory: {directory / 'data'}}}\n"
        )
        self.daemon = load_config(DaemonConfig, self.daemons, {})
        self._of_daemon = typer.Typer()
        cli.add_installed_commands(self._of_daemon)

    def method(self, *arguments: str | Path) -> None:
        run(cli.app, *arguments, "-c", self.config, "-o", "json")

    def operate(self, *arguments: str | Path) -> None:
        run(self._of_daemon, *arguments, "-c", self.daemons, "-o", "json")

    def rows(self, *parts: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.directory.joinpath(*parts).read_text().splitlines()]

    def last(self, topic: str) -> list[dict[str, Any]]:
        """What a topic was given last."""
        stores = open_stores(self.daemon.store_url, "w", "w")

        async def read() -> list[dict[str, Any]]:
            consumer = open_stream(self.daemon.stream, stores.database).consumer(topic, "reader")
            records = await consumer.poll(10_000, 0.0)
            await consumer.close()
            newest = sorted(records, key=lambda record: record.timestamp)[-len(PAIRS) :]
            return sorted(
                (json.loads(record.value or b"") for record in newest), key=lambda value: IDS.index(value["id"])
            )

        try:
            return asyncio.run(read())
        finally:
            stores.database.close()


def run(app: typer.Typer, *arguments: str | Path) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run_app(app, [str(each) for each in arguments])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    umask = os.umask(0)
    os.umask(umask)
    loop, api = asyncio.new_event_loop(), OpenAIApi()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(api.start(), loop).result()
    yield Programs(api, tmp_path_factory.mktemp("forms"))
    asyncio.run_coroutine_threadsafe(api.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    os.umask(umask)


@pytest.fixture(params=FORMS)
def source(request: pytest.FixtureRequest, programs: Programs) -> tuple[Path, list[str]]:
    """A file, and the options that it needs."""
    content, columns = FORMS[request.param]
    path = programs.directory / request.param
    path.write_bytes(content)
    return path, [] if columns is None else ["--columns", columns]


def test_it_is_labelled(programs: Programs, source: tuple[Path, list[str]]) -> None:
    path, options = source
    programs.method("label", "--examples", path, "--queries", path, "--out", programs.directory / "o.jsonl", *options)
    assert [(row["id"], row["question"]) for row in programs.rows("o.jsonl")] == list(zip(IDS, ASKED, strict=True))
    assert {each[0] for row in programs.rows("o.jsonl") for each in row["neighbours"]} <= set(IDS)


def test_it_is_evolved_on(programs: Programs, source: tuple[Path, list[str]]) -> None:
    path, options = source
    out = programs.directory / f"run-{path.name}"
    files = ["--examples", path, "--queries", path, "--answers", path, "--out", out]
    programs.method("evolve", *files, "--holdout", "0", *options)
    assert [(row["id"], row["question"]) for row in programs.rows(out.name, "round-0002", "pseudo_labels.jsonl")] == (
        list(zip(IDS, ASKED, strict=True))
    )
    trained = programs.rows(out.name, "round-0001", "snapshot", "rows.jsonl")
    assert sorted((row["id"], row["completion"]) for row in trained) == sorted(zip(IDS, TOLD, strict=True))
    rounds = json.loads((out / "summary.json").read_text())["rounds"]
    assert rounds[1]["precision"] is not None  # the answers are those of the queries


def test_it_is_compared_on(programs: Programs, source: tuple[Path, list[str]]) -> None:
    path, options = source
    files = ["--examples", path, "--queries", path, "--answers", path, "--test", programs.directory / "other.jsonl"]
    programs.api.files.clear()
    programs.method("compare", *files, "--out", programs.directory / f"cmp-{path.name}", "--rows", "sft", *options)
    (trained,) = programs.api.files.values()
    told = [[turn["content"] for turn in json.loads(line)["messages"]] for line in trained.splitlines()]
    assert sorted(told) == sorted(map(list, PAIRS))


def test_it_is_imported(programs: Programs, source: tuple[Path, list[str]]) -> None:
    path, options = source
    programs.operate("labels", "import", path, *options)
    assert [(row["id"], row["question"], row["answer"]) for row in programs.last("semievol.labels")] == (
        list(zip(IDS, ASKED, TOLD, strict=True))
    )
    programs.operate("queries", "import", path, *options)
    found = programs.last("semievol.queries")
    assert [(row["id"], row["question"], row.get("answer")) for row in found] == [
        (identity, question, None) for identity, question in zip(IDS, ASKED, strict=True)
    ]


def test_a_configuration_is_made_of_it(programs: Programs, source: tuple[Path, list[str]]) -> None:
    path, options = source
    out = programs.directory / f"{path.name}.yaml"
    run(cli.app, "init", path, "--out", out, *options)
    config = load_config(MethodConfig, out, {}, foreign=SERVICE_SECTIONS)
    task = Task(config.task)
    assert config.task.labels == TOLD[:2]
    # What was mapped on the command line stands in it: the file is read with it alone.
    assert [(each.id, each.answer) for each in read_examples(path, task, config.data)] == list(
        zip(IDS, TOLD, strict=True)
    )
    assert [each.id for each in read_queries(path, task, config.data)] == IDS


@pytest.mark.parametrize("source", JSON_FORMS, indirect=True)
def test_it_is_taken_in_bulk_by_the_api(programs: Programs, source: tuple[Path, list[str]]) -> None:
    path, options = source
    columns = dict(pair.split("=") for pair in options[1].split(",")) if options else {}
    config = load_config(DaemonConfig, programs.daemons, {"SEMIEVOL__DATA__COLUMNS": json.dumps(columns)})
    body = path.read_bytes()
    while body.startswith(b"\x1f\x8b"):
        body = gzip.decompress(body)
    labels = read_delivery(config, "labels", body)
    assert labels.problems == []
    found = [json.loads(record.value or b"") for record in labels.records]
    assert [(row["id"], row["question"], row["answer"]) for row in found] == list(zip(IDS, ASKED, TOLD, strict=True))
    assert [record.key for record in read_delivery(config, "queries", body).records] == IDS
