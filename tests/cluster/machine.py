"""What a run takes of the machine, and gives back: bridges, mounts, firewall rules, sets, cgroups, kernel settings.

Invariant: `lent` leaves the machine as it found it, also after a run that was killed: it clears what such a run left
before it begins. What it clears has names that are its own, or those of a node (KUBE-*, kubepods), so that it must not
run on the node of another cluster (`other_node`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster import PLACE
from tests.cluster.commands import CommandError, run

NAME = "semievol-test"
RUN = Path("/run/semievol-cluster")
LOCK = Path("/run/semievol-cluster.lock")
"""Held by the run that has the machine. Not in RUN, which says that there is one, or was one that was killed."""
CGROUPS = Path("/sys/fs/cgroup")
CONTAINERD, CONTAINERD_STATE = RUN / "containerd.sock", RUN / "containerd"
STATE = PLACE / "run"
"""What a run writes; the logs stay until the next one."""
NODE_ADDRESS, NODE_BRIDGE, PODS_BRIDGE = "10.200.0.1", "sevnode0", "sevpods0"
POD_RANGE, POD_SUBNET = "10.201.0.0/16", "10.201.0.0/24"
SETTINGS = ("net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
"""What the CNI plugin and the kubelet set."""
FOUND = RUN / "settings.json"
OTHERS = ("kubelet", "kube-proxy", "k3s-server", "k3s-agent", "k0s", "rke2", "kubelite", "microshift")


@contextmanager
def lent() -> Iterator[None]:
    """The machine, ready for a node in the block and as it was after it."""
    if RUN.exists():  # a run was killed
        clear()
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    RUN.mkdir(parents=True, exist_ok=True)
    # Kept on disk: a run that is killed restores nothing, and the next one does it for it.
    FOUND.write_text(json.dumps({name: Path("/proc/sys", name).read_text() for name in SETTINGS}), "utf-8")
    try:
        run("ip", "link", "add", NODE_BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{NODE_ADDRESS}/32", "dev", NODE_BRIDGE)
        run("ip", "link", "set", NODE_BRIDGE, "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        yield
    finally:
        clear()


def other_node() -> str | None:
    """What shows that this machine is a node of another cluster; None: nothing does.

    Its chains and cgroups have the names of ours; pods go on in them while their kubelet is stopped.
    """
    ours = _processes()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in ours:
            with suppress(OSError):
                program = (entry / "comm").read_text().strip()
                if program in OTHERS:
                    return f"{program} runs"
    if RUN.exists():  # what there is else is of a run of ours, which goes on or was killed
        return None
    for group in _cgroups("kubepods*"):
        return f"there is {group}, and no {RUN}"
    for family in ("iptables", "ip6tables"):
        with suppress(CommandError, FileNotFoundError):
            if (chain := node_chain(run(f"{family}-save").splitlines())) is not None:
                return f"{family} has the chain {chain}, and there is no {RUN}"
    return None


def node_chain(rules: list[str]) -> str | None:
    """A chain that only a node has, in the lines of iptables-save."""
    return next((line[1:].split()[0] for line in rules if line.startswith(":KUBE-")), None)


def clear() -> None:
    """End what runs of a node, and take away what it made."""
    _end_processes()
    _unmount()
    for bridge in (PODS_BRIDGE, NODE_BRIDGE):
        run("ip", "link", "delete", bridge, check=False)
    _clear_firewall()
    _remove_cgroups()
    _remove_log_links()
    if FOUND.exists():
        for name, value in json.loads(FOUND.read_text("utf-8")).items():
            Path("/proc/sys", name).write_text(value)
    shutil.rmtree(RUN, ignore_errors=True)


def _processes() -> dict[int, str]:
    """Command lines by process, of those that have our places in them."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                program = Path(words[0].decode(errors="replace")).name
                if program.startswith(("containerd", "etcd", "kube")) and (
                    any(word.find(place.encode()) >= 0 for word in words for place in (str(RUN), str(STATE)))
                ):
                    found[int(entry.name)] = program
    return found


def _end_processes() -> None:
    """Containers end with their shims' cgroups; then the shims, and what a killed run left of the control plane."""
    # The kubelet first: it would start what is ended.
    there = _processes()
    for pid, program in there.items():
        if not program.startswith("containerd"):
            _kill(pid)
    for group in _cgroups():
        for file in group.rglob("cgroup.procs"):
            with suppress(OSError):
                for line in file.read_text().split():
                    _kill(int(line))
    for pid, program in there.items():
        if program.startswith("containerd"):
            _kill(pid)
    deadline = time.monotonic() + 20
    while _processes() and time.monotonic() < deadline:
        time.sleep(0.1)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _cgroups(name: str = "kubepods") -> list[Path]:
    """The kubelet's: in each hierarchy of version 1, or in the only one of version 2."""
    return [group for pattern in (f"*/{name}", name) for group in CGROUPS.glob(pattern) if group.is_dir()]


def _remove_cgroups() -> None:
    for group in _cgroups():
        for folder in [*sorted((each for each in group.rglob("*") if each.is_dir()), reverse=True), group]:
            for _ in range(20):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)


def _unmount() -> None:
    """Everything mounted below our places, the innermost first."""
    places = (f"{RUN}/", f"{STATE}/", f"{PLACE / 'containerd'}/", "/run/netns/cni-", "/var/run/netns/cni-")
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in reversed([each for each in points if each.startswith(places)]):
        run("umount", "--lazy", point, check=False)
        if "/netns/cni-" in point:
            Path(point).unlink(missing_ok=True)


def _clear_firewall() -> None:
    """Chains and rules of kube-proxy, kube-router and the CNI plugin, and the sets that they name."""
    for family in ("iptables", "ip6tables"):
        with suppress(CommandError, FileNotFoundError):
            there = run(f"{family}-save").splitlines()
            kept = without_ours(there)
            if kept != there:
                run(f"{family}-restore", stdin="\n".join(kept) + "\n")
    with suppress(CommandError, FileNotFoundError):
        for name in run("ipset", "list", "-n").split():
            if name.startswith(("KUBE-", "kube-router-", "inet6:KUBE-", "inet6:kube-router-")):
                run("ipset", "destroy", name, check=False)


def without_ours(rules: list[str]) -> list[str]:
    """The lines of iptables-save without the chains and rules of this node; those of other CNI networks stay."""
    plugins = {name for line in rules if NAME in line for name in re.findall(r"CNI-[0-9a-f]+", line)}
    return [line for line in rules if "KUBE-" not in line and not any(name in line for name in plugins)]


def _remove_log_links() -> None:
    """The kubelet names each container's log in /var/log/containers, wherever the logs are."""
    links = Path("/var/log/containers")
    if links.is_dir():
        for link in links.iterdir():
            if link.is_symlink() and str(STATE) in os.readlink(link):
                link.unlink()
        with suppress(OSError):
            links.rmdir()
