"""Several processes that train one job together on one machine.

Owns how the first process starts the others and what tells them apart: the variables that torchrun would set (RANK,
WORLD_SIZE and their like), which torch and accelerate read. Owns not what each of them computes. Where torchrun, or a
cluster, has started the processes there is nothing to do here.
Invariant: the others never outlive the first one; one of them failing ends the training. Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence

_LEAVE_S = 60.0
_GRACE_S = 10.0
_POLL_S = 0.5


@contextlib.contextmanager
def joined(processes: int, command: Sequence[str], on_failure: Callable[[str], None]) -> Iterator[None]:
    """Be the first of `processes` that train together, for as long as the context lasts.

    Args:
        processes: this one included. 1: nothing happens.
        command: starts one of the others.
        on_failure: is told, from a thread, that another process has failed and this one has not ended by itself in some
            seconds: all of them usually fail for the same reason, and then this one says it better.
    """
    if processes == 1 or "RANK" in os.environ:
        yield
        return
    group = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        # Read when torch is loaded. All cores for each of them would be several times too many threads.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes)),
    }
    before = dict(os.environ)
    os.environ.update(group | _place(0))
    others = [
        # Their output is not the result: it goes where their messages go.
        subprocess.Popen(command, env=os.environ | _place(rank), stdin=subprocess.DEVNULL, stdout=2)
        for rank in range(1, processes)
    ]
    left = threading.Event()
    watch = threading.Thread(target=_watch, args=(others, left, on_failure), name="training-group", daemon=True)
    watch.start()
    finished = False
    try:
        yield
        finished = True
    finally:
        left.set()
        _end(others, _LEAVE_S if finished else 0.0)
        watch.join()
        for name in (*group, *_place(0)):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


def _place(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def _watch(others: Sequence[subprocess.Popen[bytes]], left: threading.Event, on_failure: Callable[[str], None]) -> None:
    while not left.wait(_POLL_S):
        for rank, process in enumerate(others, start=1):
            code = process.poll()
            if code:
                if not left.wait(_GRACE_S):
                    on_failure(f"process {rank} of the training ended with exit code {code}")
                return


def _end(others: Sequence[subprocess.Popen[bytes]], patience_s: float) -> None:
    """Let them end by themselves, then make them."""
    for process in others:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
        if process.poll() is None:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
