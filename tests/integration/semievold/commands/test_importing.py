"""Records from a pipe: published as they come, and as far as they are valid."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from semievol.errors import DataError
from semievold.api import operations
from semievold.commands.importing import BATCH, publish_file
from semievold.config.daemon import DaemonConfig
from semievold.intake.reading import labels_lag
from semievold.service import place_of
from semievold.store.stores import Stores, open_stores
from semievold.streams.opening import open_stream

WAIT_S = 20.0


class Pipe:
    """`queries import -` in a thread, at the other end of a pipe."""

    def __init__(self, config: DaemonConfig, stores: Stores) -> None:
        self._config, self._stores = config, stores
        reading, self._writing = os.pipe()
        self.stdin = os.fdopen(reading)
        self.report: dict[str, Any] = {}
        self.error: DataError | None = None
        self._thread = threading.Thread(target=self._publish, daemon=True)

    def _publish(self) -> None:
        try:
            self.report = asyncio.run(
                publish_file(self._config, self._stores, "queries", "-", skip_invalid=False, raw=False)
            )
        except DataError as error:
            self.error = error

    def start(self) -> None:
        self._thread.start()

    def write(self, text: str) -> None:
        os.write(self._writing, text.encode())

    def end(self) -> None:
        os.close(self._writing)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self.stdin.close()

    def published(self) -> int:
        stream = open_stream(self._config.stream, self._stores.database)
        return sum(each.end for each in stream.offsets(self._config.stream.queries, "anybody"))

    def wait_until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not reached():
            assert time.monotonic() < deadline, self.published()
            time.sleep(0.01)


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    config = DaemonConfig.model_validate(
        {"workload": "w", "model": {"name": "m"}, "artifacts": {"directory": tmp_path}}
    )
    stores = open_stores(config.store_url, "w", "w")
    pipe = Pipe(config, stores)
    monkeypatch.setattr(sys, "stdin", pipe.stdin)
    pipe.start()
    yield pipe
    stores.database.close()


def line(number: int) -> str:
    return f'{{"id": "q{number}", "question": "why?"}}\n'


def test_a_line_is_published_while_the_next_one_is_waited_for(pipe: Pipe) -> None:
    pipe.write(line(0))
    pipe.wait_until(lambda: pipe.published() == 1)
    pipe.write(line(1) + line(2)[:9])
    pipe.wait_until(lambda: pipe.published() == 2)
    pipe.write(line(2)[9:].rstrip())  # the last line may lack its end
    pipe.end()
    assert pipe.error is None
    assert pipe.report["published"] == pipe.published() == 3


def test_what_came_before_an_invalid_line_is_published_and_the_line_is_named(pipe: Pipe) -> None:
    pipe.write("".join(map(line, range(3))))
    pipe.wait_until(lambda: pipe.published() == 3)
    pipe.write(line(3) + line(4) + "{\n" + line(5))
    pipe.end()
    assert pipe.error is not None
    assert str(pipe.error).startswith("-:6: ")
    assert pipe.published() == 5


def test_many_lines_are_published_in_batches(pipe: Pipe) -> None:
    for number in range(2 * BATCH + 1):
        pipe.write(line(number))
    pipe.end()
    assert pipe.report["published"] == pipe.published() == 2 * BATCH + 1


def imported(config: DaemonConfig, stores: Stores, tmp_path: Path, count: int) -> dict[str, Any]:
    file = tmp_path / "labels.jsonl"
    rows = [{"id": f"e{n}", "question": f"question {n}", "answer": "a"} for n in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return asyncio.run(publish_file(config, stores, "labels", str(file), skip_invalid=False, raw=False))


def test_an_import_of_labels_says_what_is_waited_for_next(tmp_path: Path) -> None:
    settings = {"workload": "w", "model": {"name": "m"}, "artifacts": {"directory": tmp_path}}
    config = DaemonConfig.model_validate(settings)
    stores = open_stores(config.store_url, "w", "w")
    try:
        few = imported(config, stores, tmp_path, 20)["waiting_for"]
        assert few.startswith("at most 20 of 36 labelled examples with different questions")
        assert "no process leads" in imported(config, stores, tmp_path, 40)["waiting_for"]
        stores.leases.acquire("a", 60.0)
        assert imported(config, stores, tmp_path, 40)["waiting_for"] == "100 labels to be read"
        told = operations.status(config, stores, place_of(config), labels_lag(config, stores))
        assert told["waiting_for"] == "0 of 16 examples for the warm round (100 labels not read yet)"
        assert "queries wait until the warm round has decided" in told["held"]["intake"]
    finally:
        stores.database.close()
