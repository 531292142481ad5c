"""The two gateways that are compared: a daemon with the generator in its process, and one over a real vLLM server.

Both serve the same small model that was trained for conversation, so that what a field brings about can be seen.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.clients import environments
from tests.clients.calls import Call, Gateway
from tests.clients.calls.by_curl import ORIGIN
from tests.daemon_process import TOKEN, DaemonProcess, tiny_config
from tests.servers.vllm import START_S, VllmServer

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct"
WHOLE_RUN_S = 3_000.0
# So that vLLM calls tools, which it does only with a parser for what its model writes.
_TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
# The model's whole context, as the generator in this process has it.
_CONTEXT = ("--max-model-len", "8192", "--max-num-batched-tokens", "8192")
_QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""What keeps the libraries from asking the network for anything but the gateway."""


@contextmanager
def embedded(directory: Path) -> Iterator[Gateway]:
    """A daemon with the generator in its process."""
    with _daemon(directory) as gateway:
        yield gateway


@contextmanager
def over_vllm(directory: Path) -> Iterator[Gateway]:
    """A daemon over one vLLM server."""
    server = VllmServer(MODEL.resolve(), directory, arguments=_TOOLS + _CONTEXT)
    server.start()
    try:
        server.wait(2 * START_S)
        with _daemon(directory, generation={"threads": None, "kind": "vllm", "replicas": [server.url]}) as gateway:
            yield gateway
    finally:
        server.stop()


@contextmanager
def _daemon(directory: Path, **sections: Any) -> Iterator[Gateway]:
    (directory / "model").mkdir()  # so that no tiny model is made, which nobody asks
    front = {"port": 0, "token": TOKEN, "cors_origins": [ORIGIN], "max_tokens": 10_000}
    model = {"name": str(MODEL.resolve()), "dtype": "float32", "device": "cpu"}
    daemon = DaemonProcess(tiny_config(directory, model=model, gateway=front, **sections))
    daemon.start()
    try:
        daemon.wait_ready(300.0)
        yield Gateway(f"{daemon.url('gateway')}/v1", TOKEN, "tiny")
    finally:
        daemon.stop()


def made(calls: Iterable[Call], gateway: Gateway) -> dict[str, dict[str, Any]]:
    """Make calls, each in its client's environment; the outcomes by the calls' names."""
    by_environment: dict[str, list[str]] = {}
    for call in calls:
        by_environment.setdefault(call.environment, []).append(call.name)
    found = {}
    for environment, names in by_environment.items():
        to = ["--url", gateway.url, "--token", gateway.token, "--model", gateway.model]
        done = subprocess.run(
            [str(environments.python(environment)), "-m", "tests.clients.asking", *to],
            input="\n".join(names),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **_QUIET},
            timeout=WHOLE_RUN_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3_000:]
        for line in done.stdout.splitlines():
            # Some libraries write to the standard output, too.
            if line.startswith('{"name"'):
                outcome = json.loads(line)
                found[outcome["name"]] = outcome
    return found
