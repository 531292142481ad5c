"""A real daemon process for tests: started on free ports in a directory of its own, asked over HTTP, killed at will."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.tiny_model import make_tiny_model

COLOURS = ("red", "green", "blue", "black")
BETWEEN = ("", "0 ", "8 ", "- ", "= ")
"""What may stand between the two colours of an easy query."""
TOKEN = "token-of-the-tests"


def example(number: int) -> dict[str, Any]:
    """A labelled example of a task that a tiny random model can learn: the label is said in the question."""
    colour = COLOURS[number % len(COLOURS)]
    return {"id": f"e{number}", "question": f"{colour} {number % 7}", "answer": colour}


def query(number: int) -> dict[str, Any]:
    """A query that no example asks: what a held-out one asks is not trained on."""
    return {"id": f"q{number}", "question": f"{COLOURS[number % len(COLOURS)]} {number % 7} {number % 5}"}


def easy_query(number: int) -> dict[str, Any]:
    """Another, which a taught model answers where it is shown no neighbours."""
    colour, said = COLOURS[number % len(COLOURS)], BETWEEN[number // (len(COLOURS) * 7) % len(BETWEEN)]
    return {"id": f"q{number}", "question": f"{colour} {said}{colour} {number % 7}"}


def tiny_config(directory: Path, **overrides: Mapping[str, Any]) -> Path:
    """Write a daemon configuration around a tiny model; `overrides` are merged per section."""
    model = make_tiny_model(directory / "model") if not (directory / "model").exists() else directory / "model"
    sections: dict[str, Any] = {
        "workload": {"name": "tiny"},
        "task": {"labels": list(COLOURS), "max_answer_tokens": 8},
        "model": {"name": str(model), "dtype": "float32", "device": "cpu"},
        "embedding": {"kind": "hashing"},
        "labelling": {
            "configurations": [
                {"name": "greedy", "temperature": 0.0, "neighbours": 2},
                {"name": "sampled", "temperature": 1.0, "samples": 2, "neighbours": 2},
            ],
            "justify": False,
        },
        "selection": {"theta": 0.8, "min_agreement": 0.0},
        "training": {
            "learning_rate": 0.01,
            "warm_epochs": 20,
            "epochs": 10,
            "checkpoint_steps": 20,
            "threads": 1,
        },
        # Some ten different questions are held out; of equal ones the first to come says where they belong, so that it
        # may be nine. Five wins without a loss are to be enough.
        "gate": {"min_holdout": 6, "patience_s": 0.0, "alpha": 0.1},
        "labels": {"holdout_share": 0.4},
        "trigger": {"min_examples": 10, "labels_quiet_s": 1.0, "new_pseudo_labels": None},
        "rollout": {"watch_s": 0.0},
        "generation": {"threads": 1},
        "artifacts": {"directory": str(directory / "data")},
        "api": {"port": 0, "token": TOKEN},
        "gateway": {"port": 0, "token": TOKEN},
    }
    for section, values in overrides.items():
        sections[section] = {**sections.get(section, {}), **values} if isinstance(values, Mapping) else values
    path = directory / "semievol.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


class DaemonProcess:
    """One `semievold run`, or one `role` alone; `script` replaces the entry point (one that dies on purpose, say)."""

    def __init__(
        self,
        config: Path,
        script: Path | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        role: str = "run",
    ) -> None:
        self.config = config
        self.role = role
        self._suffix = "" if role == "run" else f"-{role}"
        self.data = Path(yaml.safe_load(config.read_text())["artifacts"]["directory"])
        self._command = [sys.executable, *(["-m", "semievold.commands.cli"] if script is None else [str(script)])]
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self._endpoints.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, self.role, "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=Path(__file__).parent.parent,
            )

    @property
    def _endpoints(self) -> Path:
        return self.data / f"endpoints{self._suffix}.json"

    @property
    def _log(self) -> Path:
        return self.data / f"daemon{self._suffix}.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def kill(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, timeout_s: float = 40.0) -> int:
        """SIGTERM and wait; the exit code."""
        assert self._process is not None
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)

    def wait_until(self, what: Callable[[], Any], timeout_s: float = 90.0) -> Any:
        """Poll until `what` is true; the daemon's last words are in the failure when it ends or the time is up."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.running:
                raise AssertionError(f"the daemon ended with {self.code}:\n{self.log()}")
            try:
                if found := what():
                    return found
            except (httpx.TransportError, FileNotFoundError):
                pass
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout_s:.0f} s:\n{self.log()}")

    def wait_ready(self, timeout_s: float = 90.0) -> None:
        self.wait_until(lambda: self.get("/readyz").status_code == 200, timeout_s)

    def log(self, lines: int = 40) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def url(self, front: str) -> str:
        return str(json.loads(self._endpoints.read_text())[front])

    def get(self, path: str, front: str = "api") -> httpx.Response:
        return self._call("GET", front, path, None)

    def post(self, path: str, body: Any = None, front: str = "api") -> httpx.Response:
        return self._call("POST", front, path, body)

    def _call(self, method: str, front: str, path: str, body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        # verify=False: plain HTTP, and making a TLS context costs more than the call
        return httpx.request(method, self.url(front) + path, json=body, headers=headers, timeout=30.0, verify=False)

    def status(self) -> dict[str, Any]:
        response = self.get("/v1/status")
        response.raise_for_status()
        return dict(response.json())

    def rounds(self) -> list[dict[str, Any]]:
        """Newest first."""
        return list(self.get("/v1/rounds").json())

    def publish(self, what: str, records: list[dict[str, Any]]) -> None:
        self.post(f"/v1/{what}", {"records": records}).raise_for_status()

    def chat(self, question: str, **options: Any) -> httpx.Response:
        body = {"model": "tiny", "messages": [{"role": "user", "content": question}], "temperature": 0, **options}
        return self.post("/v1/chat/completions", body, front="gateway")
