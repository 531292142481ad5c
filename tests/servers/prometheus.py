"""A Prometheus on a loopback port, from Debian's package, with the rules and the scrape job of deploy/."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.servers import free_port, unavailable

SHIPPED = Path(__file__).parents[2] / "deploy" / "prometheus"
READY_S = 60.0

Series = tuple[dict[str, str], list[float]]
"""Labels, and the values over time that are numbers."""


@dataclass(frozen=True)
class Prometheus:
    """`url` answers its HTTP API."""

    url: str

    def get(self, path: str, **parameters: Any) -> Any:
        """What the API says in `data`; an assertion carries its error."""
        # verify=False: plain HTTP, and making a TLS context costs more than the call
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=60.0, verify=False).json()
        assert answer["status"] == "success", answer.get("error")
        return answer["data"]

    def range(self, expr: str, start: float, end: float, step_s: float = 1.0) -> list[Series]:
        """The series of an expression that have a number at some time from `start` to `end`, UTC seconds."""
        found = self.get("query_range", query=expr, start=start, end=end, step=step_s)["result"]
        series = [(each["metric"], [float(value) for _, value in each["values"]]) for each in found]
        numbers = [(labels, [value for value in values if math.isfinite(value)]) for labels, values in series]
        return [(labels, values) for labels, values in numbers if values]


@contextmanager
def prometheus(directory: Path, targets: Sequence[str], scrape_s: float) -> Iterator[Prometheus]:
    """Scrapes `targets` (host:port) as the job of deploy/prometheus/prometheus.yml, for the block."""
    if shutil.which("prometheus") is None:
        unavailable("prometheus is missing (Debian: apt-get install prometheus)")
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text("utf-8"))
    (job,) = (each for each in config["scrape_configs"] if each["job_name"] == "semievol")
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), f"{scrape_s:g}s")
    config["rule_files"] = [str(SHIPPED / each) for each in config["rule_files"]]
    config["scrape_configs"] = [{"job_name": job["job_name"], "static_configs": [{"targets": list(targets)}]}]
    file, log = directory / "prometheus.yml", directory / "prometheus.log"
    file.write_text(yaml.safe_dump(config))
    it = Prometheus(f"http://127.0.0.1:{(port := free_port())}")
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={directory / 'tsdb'}"]
    with log.open("wb") as said:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=said, stderr=said)
    try:
        _wait_ready(it, process, log)
        yield it
    finally:
        process.terminate()
        process.wait(30.0)


def _wait_ready(it: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"{it.url}/-/ready", timeout=5.0).status_code == 200:
                return
        assert process.poll() is None, log.read_text("utf-8", "replace")
        assert time.monotonic() < deadline, log.read_text("utf-8", "replace")
        time.sleep(0.05)
