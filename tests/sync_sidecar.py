"""`semievold sync-adapters` as a process of its own, beside an engine or beside nobody."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.servers import free_port

COMMAND = (sys.executable, "-c", "from semievold.commands.cli import main; main()", "sync-adapters")
PATIENCE_S = 60.0


class Sidecar:
    """The command as a process, looking every fifth of a second."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self._log = log
        command = [*COMMAND, *arguments, "--every", "0.2", "--port", str(port)]
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
