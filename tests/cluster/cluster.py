"""The cluster with the images and volumes that k8s/overlays/try asks for, before anything of k8s/ is applied."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import yaml

from tests.cluster import BIN, HERE, PLACE, images, machine, programs, storage
from tests.cluster.commands import CommandError, waited
from tests.cluster.node import Node
from tests.cluster.workload import write_workload
from tests.servers import unavailable

NAMESPACE = "semievol"
START_S = 180.0


def missing_programs() -> list[str]:
    """What packages of Debian would bring."""
    path = f"/usr/sbin:/sbin:{os.environ.get('PATH', '')}"
    return [program for program in programs.PACKAGES if shutil.which(program, path=path) is None]


def lacking() -> str | None:
    """Why no cluster can be had on this machine; None: it can."""
    if os.geteuid() != 0:
        return "a cluster needs root: it makes bridges, mounts and firewall rules"
    if (other := machine.other_node()) is not None:
        return f"no cluster: a node of another one ({other}) has what a run clears away, by the same names"
    if missing := missing_programs():
        return (
            f"no cluster: {', '.join(missing)} missing (Debian: apt-get install {' '.join(programs.packages(missing))})"
        )
    if absent := [name for name in programs.NAMES if not (BIN / name).exists()]:
        return f"no cluster: {', '.join(absent)} not built; run make cluster-test, or python -m tests.cluster.programs"
    return None


@contextmanager
def running() -> Iterator[Node]:
    """A node that is ready in the block, with images, DNS and volumes; the machine as it was after it.

    What it says goes to STATE/logs, which stays until the next run.
    """
    if (reason := lacking()) is not None:
        unavailable(reason)
    PLACE.mkdir(parents=True, exist_ok=True)
    with machine.LOCK.open("w") as lock:
        # One at a time on one machine, whatever checkout it is of: a second one waits.
        fcntl.flock(lock, fcntl.LOCK_EX)
        with machine.lent():
            node = Node()
            try:
                node.start_containerd()
                images.provide(print)
                node.start()
                node.apply(*yaml.safe_load_all((HERE / "coredns.yaml").read_text("utf-8")))
                node.apply(*storage.volumes(NAMESPACE))
                storage.put_models()
                write_workload(machine.STATE)
                rolled_out = ("rollout", "status", "deployment/coredns", "--namespace=kube-system")
                waited("DNS", lambda: node.kubectl(*rolled_out, "--timeout=20s") or None, START_S)
                yield node
            finally:
                with suppress(CommandError, OSError):
                    _keep_logs(node)
                node.stop()


def _keep_logs(node: Node) -> None:
    """What every container said last, beside the logs of the control plane."""
    folder = machine.STATE / "logs" / "pods"
    folder.mkdir(parents=True, exist_ok=True)
    objects = node.kubectl("get", "all,pvc,events", "--all-namespaces", "-o", "wide")
    (folder / "objects.txt").write_text(objects, "utf-8")
    for pod in node.get("pods", "--all-namespaces")["items"]:
        spec, name, namespace = pod["spec"], pod["metadata"]["name"], pod["metadata"]["namespace"]
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            words = ("logs", name, f"--namespace={namespace}", f"--container={container['name']}", "--timestamps")
            said = node.kubectl(*words, "--tail=2000", check=False)
            before = node.kubectl(*words, "--previous", "--tail=500", check=False)
            (folder / f"{namespace}.{name}.{container['name']}.log").write_text(before + said, "utf-8")
