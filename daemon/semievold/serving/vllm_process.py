"""A vLLM server on this machine, started with every flag that LoRA at run time needs, and kept running.

Owns the command line, the process and its restarts; whether it answers is the replica set's to find out. Invariant: the
server and its engine, a process of its own, never outlive the daemon.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from semievol.backoff import Backoff
from semievol.child_environment import MODEL_SERVER, inherited
from semievol.errors import ConfigError
from semievold.config.daemon import DaemonConfig
from semievold.config.generation import lora_rank

log = logging.getLogger(__name__)

_ENVIRONMENT: Mapping[str, str] = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1"}
# The daemon's own threads are kept from spinning; the server has its own ways.
_NOT_INHERITED = ("OMP_WAIT_POLICY",)
_RESTART = Backoff(1.0, 60.0)
_WELL_S = 300.0
_STOP_S = 15.0
_PR_SET_PDEATHSIG = 1


def vllm_command(config: DaemonConfig) -> list[str]:
    """The whole command line.

    Raises:
        ConfigError: training.rank is more than vLLM serves.
    """
    generation, launch = config.generation, config.generation.launch_settings
    try:
        rank = launch.max_lora_rank or lora_rank(config.training.largest_rank)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    # One slot to spare: while a version is loaded, no running request may lose its own.
    slots = generation.max_adapters + 1
    command = [
        *(launch.command or (sys.executable, "-m", "vllm.entrypoints.openai.api_server")),
        *("--model", config.model.name, "--served-model-name", generation.base_name, "--dtype", config.model.dtype),
        *("--host", "127.0.0.1", "--port", str(launch.port)),
        *("--enable-lora", "--max-loras", str(slots), "--max-cpu-loras", str(2 * slots), "--max-lora-rank", str(rank)),
    ]
    if config.model.revision is not None:
        command += ["--revision", config.model.revision]
    if config.model.chat_template is not None:
        command += ["--chat-template", str(config.model.chat_template.resolve())]
    if launch.max_model_len is not None:
        command += ["--max-model-len", str(launch.max_model_len)]
    if config.training.share_gpu == "sleep":
        command.append("--enable-sleep-mode")
    return [*command, *launch.arguments]


class VllmProcess:
    """The supervised server; `run` restarts it until stopped."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log_path: Path, inherit: Sequence[str] = ()
    ) -> None:
        self._command = list(command)
        ours = inherited((*MODEL_SERVER, *inherit))
        kept = {key: value for key, value in ours.items() if key not in _NOT_INHERITED}
        self._environment = {**kept, **_ENVIRONMENT, **environment}
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the server without waiting until it answers.

        Raises:
            ConfigError: the command cannot be run.
        """
        try:
            with self._log_path.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self._environment,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                )
        except OSError as error:
            raise ConfigError(
                f"generation.launch_settings.command: {self._command[0]} cannot be run ({error}); install "
                "semievol[vllm], or give the command of another environment"
            ) from error
        log.info("vLLM started as process %d; it writes to %s", self._process.pid, self._log_path)

    async def run(self, stop: asyncio.Event) -> None:
        """Restart it whenever it ends, after a wait that doubles while it does not stay up; stop it at the end."""
        loop = asyncio.get_running_loop()
        failures, since = 0, loop.time()
        while await self._ended_before(stop):
            assert self._process is not None
            failures = 1 if loop.time() - since > _WELL_S else failures + 1
            wait_s = _RESTART.bound_s(failures)
            log.error(
                "vLLM ended with %s (%s); started again in %.0f s", self._process.returncode, self._last_line(), wait_s
            )
            await self._kill_group()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await stop.wait()
            if stop.is_set():
                break
            since = loop.time()
            await self.start()
        await self.close()

    async def close(self) -> None:
        """SIGTERM, then SIGKILL for all of it."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
        await self._kill_group()
        await process.wait()
        self._process = None

    async def _ended_before(self, stop: asyncio.Event) -> bool:
        """Whether the server ended by itself."""
        assert self._process is not None
        ended = asyncio.create_task(self._process.wait())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, stopped):
            task.cancel()
        return not stop.is_set()

    async def _kill_group(self) -> None:
        """The engine is a child of the server, and may outlive it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _last_line(self) -> str:
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it left no message"


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """In the child, before it becomes the server: the kernel ends it when the daemon is killed without a word."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
