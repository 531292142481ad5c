"""What k8s/ renders to, and what its network policies let through: read as Kubernetes reads them."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.servers import unavailable

ROOT = Path(__file__).parents[1]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent.name for path in K8S.glob("components/*/kustomization.yaml"))
BEFORE = {
    "vllm-cpu": ["vllm"],
    "kueue": ["training-jobs"],
    "keda": ["vllm"],
    "models": ["embedding", "vllm"],
    "object-storage": ["vllm"],
}
"""What a component is a component of, besides the base."""
WORKLOADS = ("Deployment", "StatefulSet", "Job")

Manifest = dict[str, Any]


@functools.cache
def rendered(folder: Path) -> list[Manifest]:
    """The objects of a kustomization; they are shared, so that who changes one copies it first."""
    if shutil.which("kubectl") is None:
        unavailable("kubectl is missing; install 1.27 or newer, whose kustomize knows components")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The parser in C reads the same ten times as fast.
    return [each for each in yaml.load_all(done.stdout, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if each]


def overlay(name: str) -> list[Manifest]:
    return rendered(K8S / "overlays" / name)


@functools.cache
def on_the_base(component: str) -> list[Manifest]:
    """The objects of the base with one component, and those that it is a component of."""
    return over("base", *(f"components/{each}" for each in (*BEFORE.get(component, ()), component)))


def over(what: str, *components: str, **more: Any) -> list[Manifest]:
    """The objects of a kustomization over `what`, as a user's own would be; folders are those of k8s/."""
    with tempfile.TemporaryDirectory() as folder:
        place = os.path.relpath(K8S, Path(folder).resolve())
        written = {
            "resources": [f"{place}/{what}"],
            "components": [f"{place}/{each}" for each in components],
            **more,
        }
        (Path(folder) / "kustomization.yaml").write_text(json.dumps(written))
        return rendered(Path(folder).resolve())


def everything() -> dict[str, list[Manifest]]:
    """The objects of each overlay, and of each component on the base."""
    return {
        **{f"overlays/{name}": overlay(name) for name in OVERLAYS},
        **{f"components/{name}": on_the_base(name) for name in COMPONENTS},
    }


def of_kind(objects: list[Manifest], *kinds: str) -> list[Manifest]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"] == name]
    return found


def pods(objects: list[Manifest]) -> dict[str, Manifest]:
    """Pod templates by the name of what makes them; trainings are made by control."""
    found = {each["metadata"]["name"]: each["spec"]["template"] for each in of_kind(objects, *WORKLOADS)}
    job = training_job(objects)
    return found if job is None else {**found, "training": job["spec"]["template"]}


def training_job(objects: list[Manifest]) -> Manifest | None:
    """What the control role makes its Jobs from, with the image that it gives to them: its own."""
    texts = [each["data"]["job.yaml"] for each in of_kind(objects, "ConfigMap") if "job.yaml" in each["data"]]
    if not texts:
        return None
    job: Manifest = yaml.safe_load(texts[0])
    (trainer,) = job["spec"]["template"]["spec"]["containers"]
    (control,) = named(objects, "Deployment", "control")["spec"]["template"]["spec"]["containers"]
    assert "image" not in trainer
    trainer["image"] = control["image"]
    job["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    return job


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def own_config(objects: list[Manifest]) -> str:
    """The text of semievol.yaml."""
    (found,) = [each for each in of_kind(objects, "ConfigMap") if "semievol.yaml" in each["data"]]
    return str(found["data"]["semievol.yaml"])


def seconds_to_stop(container: Manifest) -> float:
    """What a container's preStop takes."""
    return float(container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0))


# --- network policies -----------------------------------------------------------------------------------------------


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector picks what has these labels."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for each in selector.get("matchExpressions", ()):
        assert each["operator"] == "In", each
        if labels.get(each["key"]) not in each["values"]:
            return False
    return True


def outside(peer: Manifest) -> str | None:
    """How a peer outside the namespace is called; None: it is within."""
    if "ipBlock" in peer:
        left_out = ", ".join(peer["ipBlock"].get("except", ()))
        return peer["ipBlock"]["cidr"] + (f" without {left_out}" if left_out else "")
    if "namespaceSelector" not in peer:
        return None
    labels = peer["namespaceSelector"]["matchLabels"]
    name = labels.get("kubernetes.io/metadata.name")
    place = f"namespace {name}" if name else "namespaces with " + " ".join(f"{k}={v}" for k, v in labels.items())
    who = " ".join(f"{key}={value}" for key, value in peer.get("podSelector", {}).get("matchLabels", {}).items())
    return f"{who} in {place}" if who else place


def ways(objects: list[Manifest], direction: str) -> Iterator[tuple[str, str, str, str, int | range]]:
    """(policy, pod, peer, protocol, port) of every way that a policy opens; `direction`: Ingress or Egress.

    Several ports together are a range. A peer is the name of a pod of the namespace, or as `outside` calls it; with
    none of the namespace's pods it is `?`.
    """
    there = pods(objects)
    side = "from" if direction == "Ingress" else "to"
    for policy in of_kind(objects, "NetworkPolicy"):
        spec = policy["spec"]
        picked = [name for name, pod in there.items() if selects(spec["podSelector"], pod["metadata"]["labels"])]
        for rule in spec.get(direction.lower(), ()):
            for peer in rule[side]:
                known = outside(peer)
                peers = (
                    [known]
                    if known is not None
                    else [n for n, pod in there.items() if selects(peer["podSelector"], pod["metadata"]["labels"])]
                )
                for pod_name in picked or ["?"]:
                    for peer_name in peers or ["?"]:
                        for port in rule["ports"]:
                            last = port.get("endPort", port["port"])
                            shown = port["port"] if last == port["port"] else range(port["port"], last + 1)
                            yield policy["metadata"]["name"], pod_name, peer_name, port["protocol"], shown


def table(objects: list[Manifest]) -> list[str]:
    """Who reaches what, as the rows of k8s/README.md: `| to | port | from |`."""
    there = pods(objects)
    goes_out = {(pod, peer, port) for _, pod, peer, _, port in ways(objects, "Egress")}
    comes_in = {(peer, pod, port) for _, pod, peer, _, port in ways(objects, "Ingress")}
    open_ways: dict[tuple[str, int | range], set[str]] = {}
    for source, to, port in goes_out | comes_in:
        both = (source, to, port) in goes_out and (source, to, port) in comes_in
        if both or source not in there or to not in there:
            open_ways.setdefault((to, port), set()).add(source)
    every = set(there)
    rows = [
        f"| {to} | {_ports(port)} | {'every pod' if sources == every else ', '.join(sorted(sources))} |"
        for (to, port), sources in open_ways.items()
    ]
    return sorted(rows)


def _ports(port: int | range) -> str:
    return f"{port.start}-{port.stop - 1}" if isinstance(port, range) else str(port)


def marked(text: str, name: str) -> list[str]:
    """The rows between `<!-- NAME -->` and the next empty line, without the table's head."""
    found = re.search(rf"<!-- {name} -->\n((?:\|.*\n)+)", text)
    assert found, f"no table {name}"
    return found[1].splitlines()[2:]
