"""Who reaches whom: tried from real pods, and what the shipped policies say of the same pair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.cluster.node import Node
from tests.manifests import of_kind, overlay, pods, ways

TARGETS = {
    "vllm": ("vllm", 8000),
    "embedding": ("embedding", 8000),
    "gateway": ("gateway", 8320),
    "control": ("control", 8321),
    "kafka": ("kafka", 9092),
    "postgres": ("postgres", 5432),
}
"""Service and port by the name of the pods behind it."""
TRY = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(target):
    name, host, port = target
    try:
        socket.create_connection((host, port), 3).close()
    except socket.gaierror as error:
        return name, f"no address: {error}"
    except OSError:
        return name, False
    return name, True
targets = json.loads(sys.argv[1])
print(json.dumps(dict(ThreadPoolExecutor(len(targets)).map(reached, targets))))
"""
CLIENTS = "namespaces with semievol-gateway-clients=true"


def tried(node: Node, namespace: str, pod: str, container: str | None, addresses: Sequence[Any]) -> dict[str, Any]:
    """Of each target, whether the pod could open a connection to it."""
    chosen = [f"--container={container}"] if container else []
    words = ("exec", f"--namespace={namespace}", pod, *chosen, "--", "python3", "-c", TRY, json.dumps(addresses))
    return dict(json.loads(node.kubectl(*words, timeout_s=60)))


def addresses(namespace: str) -> list[tuple[str, str, int]]:
    return [(name, f"{service}.{namespace}.svc.cluster.local", port) for name, (service, port) in TARGETS.items()]


def standing() -> dict[str, dict[str, Any]]:
    """The pods that run all the time, by the name of what makes them: those of Jobs come and go."""
    objects = overlay("try")
    names = {each["metadata"]["name"] for each in of_kind(objects, "Deployment", "StatefulSet")}
    return {name: pod for name, pod in pods(objects).items() if name in names}


def allowed() -> dict[str, set[str]]:
    """Which pods' servers each source may reach, by the shipped policies read as Kubernetes reads them."""
    objects = overlay("try")
    there = pods(objects)
    goes_out = {(pod, peer, port) for _, pod, peer, _, port in ways(objects, "Egress")}
    comes_in = {(peer, pod, port) for _, pod, peer, _, port in ways(objects, "Ingress")}
    found: dict[str, set[str]] = {name: set() for name in [*there, CLIENTS]}
    for source in found:
        for target, (_, port) in TARGETS.items():
            edge = (source, target, port)
            # Outside the namespace nothing keeps a pod from trying.
            if edge in comes_in and (edge in goes_out or source == CLIENTS):
                found[source].add(target)
    return found
