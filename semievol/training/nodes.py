"""Several machines that train one job together: this is the one process that each of them starts.

Owns torchrun's agent on this machine (torch's elastic launch, at rest until all machines have met at the first one) and
what its end means for whoever started it: to be tried again, or not. Owns not what the processes compute
(training.lora). Invariants: the first machine's first process is the one that publishes; machines that lose one of them
all end, and go on from the last checkpoint when all of them are started again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from semievol.errors import ConfigError
from semievol.plain_lines import one_line
from semievol.training.lora import BUSY_EXIT_CODE, LOST_EXIT_CODE, USAGE_EXIT_CODE

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Kubernetes says by it which pod of an Indexed Job this is."""
JOIN_S = 1800
"""How long the machines wait for each other: one of them may have to be bought first."""


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


def train_together(arguments: Sequence[str], machine: Machine) -> int:
    """Run this machine's processes of the training to their end.

    Args:
        arguments: of `python -m semievol.training.lora`.
        machine: which one this is.

    Returns:
        0; or as a training of one machine: 1 and 2 would fail again; others are worth another attempt.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Read when torch is loaded. All cores for each process would be several times too many threads.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // machine.processes)))
    settings = LaunchConfig(
        min_nodes=machine.machines,
        max_nodes=machine.machines,
        nproc_per_node=machine.processes,
        run_id="training",
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
