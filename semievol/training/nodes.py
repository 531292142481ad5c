"""Several machines that train one job together: this is the one process that each of them starts.

Owns torchrun's agent on this machine (torch's elastic launch, at rest until all machines have met at the first one) and
what its end means for whoever started it: to be tried again, or not. Owns not what the processes compute
(training.lora). Invariants: the first machine's first process is the one that publishes; machines that lose one of them
all end, and go on from the last checkpoint when all of them are started again; each meeting has a name, given by its
first machine, and whoever came to one that is over ends: he would wait for it while it waits for him.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from semievol.durable_files import write_whole
from semievol.errors import ConfigError
from semievol.plain_lines import one_line
from semievol.training.lora import BUSY_EXIT_CODE, LOST_EXIT_CODE, USAGE_EXIT_CODE

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Kubernetes says by it which pod of an Indexed Job this is."""
JOIN_S = 1800
"""How long the machines wait for each other: one of them may have to be bought first."""
MEETING_FILE = "meeting"
"""Of the work directory, which all machines see: the name of the meeting that the first machine holds. With `-N` behind
it: the one that machine N has come to, and whether it has come again since."""
_HERE, _OVER = "here", "over"
WATCH_S = 0.5
"""How often the others look whether it still is the one that they came to."""
SETTLE_S = 4 * WATCH_S
"""What they get to leave one that is over, before the next one begins at the same address."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One of the machines. `rendezvous`: HOST:PORT of the first one; `processes`: on each of them."""

    index: int
    machines: int
    processes: int
    rendezvous: str


def this_machine(machines: int, processes: int, rendezvous: str, index: int | None = None) -> Machine:
    """Which of the machines this is.

    Raises:
        ConfigError: names the option and the fix.
    """
    host, _, port = rendezvous.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--rendezvous: {rendezvous!r} is no HOST:PORT; give those of the first machine")
    if index is None:
        given = os.environ.get(INDEX_VARIABLE, "")
        if not given.isdigit():
            raise ConfigError(f"--node: missing; give this machine's number from 0, or set {INDEX_VARIABLE}")
        index = int(given)
    if not 0 <= index < machines:
        raise ConfigError(f"--node: {index} is none of the {machines} machines, which are 0 to {machines - 1}")
    return Machine(index, machines, processes, rendezvous)


def train_together(arguments: Sequence[str], work: Path, machine: Machine) -> int:
    """Run this machine's processes of the training to their end.

    Args:
        arguments: of `python -m semievol.training.lora`.
        work: its work directory, on a volume that all machines share.
        machine: which one this is.

    Returns:
        0; or as a training of one machine: 1 and 2 would fail again; others are worth another attempt.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Read when torch is loaded. All cores for each process would be several times too many threads.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // machine.processes)))
    try:
        meeting = _call_meeting(work, machine.machines) if machine.index == 0 else _find_meeting(work, machine.index)
    except (OSError, TimeoutError) as error:
        print(f"training cannot meet its other machines: {one_line(str(error))}", file=sys.stderr)
        return LOST_EXIT_CODE
    settings = LaunchConfig(
        min_nodes=machine.machines,
        max_nodes=machine.machines,
        nproc_per_node=machine.processes,
        run_id=f"training-{meeting}",
        rdzv_backend="static",  # its numbers are the machines' own, so that the first one publishes
        rdzv_endpoint=machine.rendezvous,
        rdzv_configs={"rank": machine.index, "timeout": JOIN_S},
        max_restarts=0,  # whoever starts the machines does it again, each of them
        monitor_interval=0.5,
    )
    # A process whose machine's agent was killed must not train on.
    command = ["-m", "semievol.training.lora", *arguments, "--parent-pid", str(os.getpid())]
    try:
        elastic_launch(settings, sys.executable)(*command)
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        return next((code for code in (1, USAGE_EXIT_CODE, BUSY_EXIT_CODE) if code in codes), LOST_EXIT_CODE)
    except SignalException as signalled:
        return 128 + int(signalled.sigval)
    except Exception as error:  # the edge of the process: a machine that never came, or that has gone
        text = one_line(" ".join(f"{type(error).__name__}: {error}".split()))
        print(f"training lost its other machines: {text}", file=sys.stderr)
        return LOST_EXIT_CODE
    return 0


# --- meetings -------------------------------------------------------------------------------------------------------


def _call_meeting(work: Path, machines: int) -> str:
    """Name the meeting that this first machine holds, so that whoever is at the one before leaves it; this process ends
    when one that had come to it comes again: what it was when it came is lost, and would be waited for.
    """
    work.mkdir(parents=True, exist_ok=True)
    name = secrets.token_hex(8)
    write_whole(work / MEETING_FILE, name)
    time.sleep(SETTLE_S)
    others = [_place_of(work, index) for index in range(1, machines)]
    _end_when(lambda: any(_said(other) == f"{name} {_OVER}" for other in others), "one of them was started again")
    return name


def _find_meeting(work: Path, index: int) -> str:
    """The meeting that the first machine holds, to which this one has not come before; this process ends when it holds
    another.

    Raises:
        TimeoutError: it holds none within JOIN_S.
    """
    give_up, place = time.monotonic() + JOIN_S, _place_of(work, index)
    while True:
        name, said = _said(work / MEETING_FILE), _said(place)
        if name and not said.startswith(name):
            break
        if name and said == f"{name} {_HERE}":
            write_whole(place, f"{name} {_OVER}")
        if time.monotonic() > give_up:
            raise TimeoutError(
                f"the first machine has not come within {JOIN_S} s, or --work {work} is on a volume that it does not "
                "share with this one"
            )
        time.sleep(WATCH_S)
    write_whole(place, f"{name} {_HERE}")
    # A volume may be away for a moment.
    _end_when(lambda: _said(work / MEETING_FILE) not in ("", name), "the first one has begun anew")
    return name


def _end_when(over: Callable[[], bool], why: str) -> None:
    def watch() -> None:
        while not over():
            time.sleep(WATCH_S)
        print(f"training lost its other machines: {why}", file=sys.stderr, flush=True)
        os._exit(LOST_EXIT_CODE)  # its processes end with it

    threading.Thread(target=watch, name="meeting-watch", daemon=True).start()


def _place_of(work: Path, index: int) -> Path:
    return work / f"{MEETING_FILE}-{index}"


def _said(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError:
        return ""
