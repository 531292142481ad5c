"""A client that asks the gateway again and again, from a pod of its own, while the story goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.cluster import HERE
from tests.cluster.commands import waited
from tests.cluster.machine import STATE
from tests.cluster.node import Node

CLIENTS, STRANGERS = "shop", "strangers"
IMAGE = "semievol-daemon:0.1.0"
WORKERS = 12
PACE_S = 5.0
"""Of each: two cores answer some four requests a second, and have a cluster to run and new pods to start besides."""


def python_pod(name: str, namespace: str, command: list[str], secret: str | None = None) -> dict[str, Any]:
    """A restricted pod of the daemon's image, which has Python and httpx, with what the client needs."""
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]
    if secret is not None:
        volumes += [
            {"name": "asking", "configMap": {"name": "asking"}},
            {"name": "token", "secret": {"secretName": secret}},
        ]
        mounts += [{"name": "asking", "mountPath": "/asking"}, {"name": "token", "mountPath": "/token"}]
    closed = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "python",
                    "image": IMAGE,
                    "command": command,
                    "securityContext": closed,
                    "volumeMounts": mounts,
                }
            ],
            "volumes": volumes,
        },
    }


class Load:
    """The client's pod: started, watched, stopped."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def start(self, token: str, questions: Path = STATE / "queries.jsonl") -> None:
        data = {"asking.py": (HERE / "asking.py").read_text("utf-8"), "questions.jsonl": questions.read_text("utf-8")}
        self._node.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _named("asking"), "data": data},
            {"apiVersion": "v1", "kind": "Secret", "metadata": _named("token"), "stringData": {"token": token}},
            python_pod("load", CLIENTS, [
                "python", "/asking/asking.py", "http://gateway.semievol.svc.cluster.local:8320",
                str(WORKERS), str(PACE_S), "/asking/questions.jsonl", "/token/token"], secret="token"),
        )  # fmt: skip

    def asked(self) -> tuple[int, int]:
        """How many requests were answered or failed by now, and how many failed."""
        found = re.findall(r"so far (\d+) asked, (\d+) failed", self._said("--tail=200"))
        return (int(found[-1][0]), int(found[-1][1])) if found else (0, 0)

    def at_least(self, count: int, timeout_s: float) -> None:
        waited(f"{count} requests", lambda: self.asked()[0] >= count, timeout_s, 5.0)

    def stop(self) -> tuple[dict[str, int], list[str]]:
        """(counts, the failures) when the last request is answered."""
        self._node.kubectl("exec", f"--namespace={CLIENTS}", "load", "--", "touch", "/tmp/stop")
        phase = ("get", "pod", "load", f"--namespace={CLIENTS}", "-o", "jsonpath={.status.phase}")
        waited("the client's end", lambda: self._node.kubectl(*phase) in ("Succeeded", "Failed"), 120.0)
        lines = self._said().splitlines()
        return dict(json.loads(lines[-1])), [line for line in lines if line.startswith("FAILED")]

    def _said(self, *options: str) -> str:
        return self._node.kubectl("logs", f"--namespace={CLIENTS}", "load", *options)


def _named(name: str) -> dict[str, str]:
    return {"name": name, "namespace": CLIENTS}
