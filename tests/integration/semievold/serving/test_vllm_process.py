"""A launched server: its life with a stand-in that only lives and dies, and once with the real one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from semievol.errors import ConfigError
from semievold.config.daemon import DaemonConfig
from semievold.serving.vllm_process import VllmProcess, vllm_command
from tests.servers import free_port, vllm_environment
from tests.servers.vllm import START_S, need_vllm
from tests.tiny_model import make_tiny_model

# Says its process id and that of a child, the way a server has an engine, and waits to be ended.
STAND_IN = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"], flush=True)
time.sleep(600)
"""


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def starts(log: Path) -> list[list[int]]:
    return [[int(word) for word in line.split()] for line in log.read_text().splitlines()] if log.exists() else []


async def test_it_is_started_again_when_it_ends_and_ended_with_its_engine_at_the_stop(tmp_path: Path) -> None:
    log, stop = tmp_path / "vllm.log", asyncio.Event()
    server = VllmProcess([sys.executable, "-c", STAND_IN], {}, log)
    await server.start()
    running = asyncio.create_task(server.run(stop))
    await until(lambda: len(starts(log)) == 1)
    first, first_child, allowed = starts(log)[0]
    assert allowed == 1
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(starts(log)) == 2)
    assert not alive(first_child)  # an orphaned engine would hold memory and port
    second, second_child, _ = starts(log)[1]
    stop.set()
    await running
    await until(lambda: not alive(second) and not alive(second_child))


async def test_it_ends_when_the_daemon_is_killed_without_a_word(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    daemon = (
        "import asyncio, sys; from pathlib import Path; from semievold.serving.vllm_process import VllmProcess\n"
        "async def main():\n"
        f"    await VllmProcess([sys.executable, '-c', {STAND_IN!r}], {{}}, Path({str(log)!r})).start()\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())"
    )
    root = Path(__file__).parents[4]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", daemon, cwd=root)
    await until(lambda: len(starts(log)) == 1)
    server, child, _ = starts(log)[0]
    process.kill()
    await process.wait()
    await until(lambda: not alive(server))
    os.kill(child, signal.SIGKILL)  # the stand-in does not end its child; vLLM ends its engine at SIGTERM


async def test_a_command_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generation\.launch_settings\.command: no-such-python cannot be run"):
        await VllmProcess(["no-such-python"], {}, tmp_path / "vllm.log").start()


@pytest.mark.timeout(START_S + 60)
async def test_the_real_server_takes_the_flags_and_loads_at_run_time(tmp_path: Path) -> None:
    await asyncio.to_thread(need_vllm)
    port = free_port()
    config = DaemonConfig.model_validate(
        {
            "workload": "tiny",
            "model": {"name": str(make_tiny_model(tmp_path / "model", hidden=128)), "dtype": "float32"},
            "training": {"rank": 4},
            "generation": {
                "kind": "vllm",
                "launch": True,
                "launch_settings": {
                    "command": [str(vllm_environment.python()), "-m", "vllm.entrypoints.openai.api_server"],
                    "port": port,
                    "arguments": ["--enforce-eager"],
                },
            },
        }
    )
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_API_KEY": "a-key"}
    server = VllmProcess(vllm_command(config), environment, tmp_path / "vllm.log")
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def healthy() -> bool:
                try:
                    return (await client.get("/health")).status_code == 200
                except httpx.TransportError:
                    return False

            async with asyncio.timeout(START_S):
                while not await healthy():  # noqa: ASYNC110 - another process sets no event
                    await asyncio.sleep(0.2)
            assert (await client.get("/v1/models")).status_code == 401
            key = {"Authorization": "Bearer a-key"}
            body = {"lora_name": "x", "lora_path": str(tmp_path / "none")}
            missing = await client.post("/v1/load_lora_adapter", json=body, headers=key)
            assert missing.status_code == 404  # it was looked for: run-time LoRA is on
            assert "No adapter found" in missing.text
    finally:
        await server.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")  # noqa: ASYNC210 - refused at once
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "model")], capture_output=True, text=True, check=False)  # noqa: ASYNC221
    assert left.stdout == ""


async def test_the_server_inherits_what_it_needs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SEMIEVOL__API__TOKEN", "SEMIEVOL__STORE__URL", "PGPASSWORD", "WANTED", "VLLM_X", "NCCL_X"):
        monkeypatch.setenv(name, "known")
    tell = (
        "import os; print(sorted(k for k, v in os.environ.items() if v == 'known'), len(os.listdir('/proc/self/fd')))"
    )
    server = VllmProcess([sys.executable, "-c", tell], {"MINE": "known"}, tmp_path / "log", ("WANTED",))
    with socket.socket() as ours:
        os.set_inheritable(ours.fileno(), True)
        await server.start()
        await until(lambda: "\n" in (tmp_path / "log").read_text())
    await server.close()
    assert (tmp_path / "log").read_text() == "['MINE', 'NCCL_X', 'VLLM_X', 'WANTED'] 4\n"
