"""The guard that k8s/ ships before vLLM, run by HAProxy on loopback ports in place of the pod's."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers import free_port, unavailable

START_S = 10.0


def haproxy() -> str:
    found = shutil.which("haproxy", path=f"/usr/sbin:/usr/local/sbin:{os.environ.get('PATH', '')}")
    if found is None:
        unavailable("HAProxy is missing (Debian: apt-get install haproxy)")
    return found


class Guard:
    """One guard, from a shipped configuration: its ports and the place of its tokens are replaced, nothing else."""

    def __init__(self, config: Path, behind: int, tokens: Mapping[str, str], directory: Path) -> None:
        """Write the files; `start` starts it.

        Args:
            config: the shipped haproxy.cfg.
            behind: the port of the server behind it.
            tokens: the contents of the Secret's files by their names.
            directory: gets all files.
        """
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        for name, token in tokens.items():
            (directory / name).write_text(token, "utf-8")
        text = config.read_text("utf-8")
        for shipped, here in (
            ("bind :8000", f"bind 127.0.0.1:{self.port}"),
            ("127.0.0.1:8001", f"127.0.0.1:{behind}"),
            ("/run/secrets/guard", str(directory)),
        ):
            assert shipped in text, f"{config} has no {shipped!r} any more"
            text = text.replace(shipped, here)
        self.file = directory / "haproxy.cfg"
        self.file.write_text(text, "utf-8")
        self._process: subprocess.Popen[str] | None = None

    def faults(self) -> str:
        """What HAProxy says of the configuration, warnings included; empty: nothing."""
        done = subprocess.run(
            [haproxy(), "-c", "-q", "-f", str(self.file)], capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        return said or (f"exit code {done.returncode}" if done.returncode else "")

    def start(self) -> None:
        self._process = subprocess.Popen(
            [haproxy(), "-db", "-f", str(self.file)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._process.stdout and self._process.stdout.read()
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.02)
        raise AssertionError(f"HAProxy did not listen within {START_S:.0f} s")

    def soft_stop(self) -> None:
        """As its image is stopped: answers that run may end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)

    def ended(self, timeout_s: float) -> bool:
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self._process.poll() is not None

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()


@contextmanager
def guarding(config: Path, behind: int, tokens: Mapping[str, str], directory: Path) -> Iterator[Guard]:
    """A guard that runs in the block."""
    guard = Guard(config, behind, tokens, directory)
    try:
        guard.start()
        yield guard
    finally:
        guard.stop()
