"""`semievold sync-adapters` as a process, on S3: what it brings, refuses, keeps and says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import httpx

from semievol.adapter_directory import WEIGHTS_FILE
from semievold.serving.storage.object_storage import AdapterStorage
from tests.servers import free_port
from tests.servers.s3 import new_bucket, s3_server
from tests.small_adapter import small_adapter

RUN = "from semievold.commands.cli import main; main()"
PATIENCE_S = 60.0


class Sidecar:
    """The command as a process, looking every fifth of a second."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self._log = log
        command = [sys.executable, "-c", RUN, "sync-adapters", *arguments, "--every", "0.2", "--port", str(port)]
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def status(self, path: str) -> int:
        with suppress(httpx.TransportError):
            return httpx.get(self.url + path, timeout=5.0).status_code
        return 0

    def metric(self, name: str) -> float:
        found = re.search(rf"^semievol_sync_{name} (\S+)$", httpx.get(f"{self.url}/metrics").text, re.MULTILINE)
        assert found, name
        return float(found[1])

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(30.0)


@contextmanager
def sidecar(*arguments: str, log: Path) -> Iterator[Sidecar]:
    it = Sidecar(*arguments, log=log)
    try:
        yield it
    finally:
        it.stop()


def test_what_is_torn_is_refused_counted_and_told_and_a_storage_that_is_away_takes_nothing_away(tmp_path: Path) -> None:
    here = tmp_path / "here"
    whole, torn = [small_adapter(tmp_path / "adapters", f"w-r{number:04}", b"x" * number) for number in (1, 2)]
    with s3_server():
        url = new_bucket()
        storage = AdapterStorage.open(url)
        files, root = fsspec.url_to_fs(url)
        for adapter in (whole, torn):
            storage.publish(adapter)
        files.pipe_file(f"{root}/{torn.name}/{WEIGHTS_FILE}", b"x")
        with sidecar("--storage", url, "--into", str(here), log=tmp_path / "log") as beside:
            beside.until(lambda: beside.status("/readyz") == 200)
            assert [path.name for path in here.iterdir()] == [whole.name]
            assert beside.metric("refused_total") >= 1
            assert f"{torn.name}: refused, what came is not what was published" in beside.log()
            files.rm(root.partition("/")[0], recursive=True)  # as does who deletes the bucket
            beside.until(lambda: beside.metric("failed_looks_total") >= 2)
            assert [path.name for path in here.iterdir()] == [whole.name]
            assert beside.status("/readyz") == beside.status("/healthz") == 200
            assert beside.log().count("there is no such place") == 1
            assert beside.stop() == 0


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    config = tmp_path / "semievol.yaml"
    config.write_text("workload: w\nmodel: {name: m}\ntask: {labels: [a, b]}\n", "utf-8")
    other = tmp_path / "other.yaml"
    other.write_text(
        "artifacts: {storage: 's3://bucket/x'}\nstream: {kind: kafka, kafka: {security_protocol: SASL_SSL}}\n", "utf-8"
    )
    command = [sys.executable, "-c", RUN, "sync-adapters", "--into", str(tmp_path / "here")]
    for more, text in (
        (("--config", str(config)), "artifacts.storage: missing; set it in the configuration, or give --storage"),
        (("--storage", "nowhere://x"), "--storage: is no address of object storage; write s3://BUCKET/PATH"),
        (("--storage", "s3://key:secret@bucket/x"), "without credentials"),
        (("--storage", "s3://bucket/x", "--into", "/proc/here"), "--into: /proc/here cannot be made"),
        # Passwords of other sections are not for this process: it does not miss them.
        (("--config", str(other), "--into", "/proc/here"), "--into: /proc/here cannot be made"),
    ):
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, text in done.stderr) == (2, True), done.stderr
