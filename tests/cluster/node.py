"""The node and its control plane, as processes: etcd, API server, managers, containerd, kubelet, proxy, policies.

It has a bridge and an address of its own, so that nothing listens where the machine's own programs do. What it changes
of the machine is in machine.py, which puts it back. Every wait is bounded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.cluster import BIN, PLACE
from tests.cluster.certificates import Authority
from tests.cluster.commands import CommandError, end_of, run, waited
from tests.cluster.machine import (
    CONTAINERD,
    CONTAINERD_STATE,
    NAME,
    NODE_ADDRESS,
    POD_RANGE,
    POD_SUBNET,
    PODS_BRIDGE,
    RUN,
    STATE,
)
from tests.servers import free_port

SERVICE_RANGE, DNS_ADDRESS, API_SERVICE = "10.202.0.0/16", "10.202.0.10", "10.202.0.1"
START_S = 180.0
STOP_S = 30.0
SERVER = f"https://{NODE_ADDRESS}:6443"


class Node:
    """One cluster of one node. `start` it after `machine.lent`, `stop` it before that ends."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        self.logs = STATE / "logs"
        self.admin = STATE / "admin.kubeconfig"

    # --- the parts ----------------------------------------------------------------------------------------------

    def start_containerd(self) -> None:
        """The runtime alone; images are handed to it before pods are there."""
        self.logs.mkdir(parents=True, exist_ok=True)
        config = STATE / "containerd.toml"
        config.write_text(
            f"""version = 2
root = "{PLACE / "containerd"}"
state = "{CONTAINERD_STATE}"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "semievol.test/pause:1"
  # Where the machine lacks CAP_SYS_RESOURCE no pod would start without it.
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{STATE / "cni"}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
""",
            "utf-8",
        )
        (STATE / "cni").mkdir(exist_ok=True)
        bridge = {
            "type": "bridge",
            "bridge": PODS_BRIDGE,
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": POD_SUBNET}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(RUN / "addresses"),
            },
        }
        network = {"cniVersion": "1.0.0", "name": NAME, "plugins": [bridge]}
        (STATE / "cni" / "10-bridge.conflist").write_text(json.dumps(network), "utf-8")
        self._start("containerd", "containerd", "--config", config)
        waited("containerd", lambda: run("ctr", "--address", CONTAINERD, "version", timeout_s=10) or None, START_S)

    def start(self) -> None:
        """Everything else, until the node is ready."""
        authority = Authority(STATE, SERVER)
        authority.kubeconfig("admin", "admin", "system:masters")
        etcd = self._start_etcd()
        self._start_api_server(authority, etcd)
        kubeconfigs = {
            name: authority.kubeconfig(name, user, group)
            for name, user, group in (
                ("manager", "system:kube-controller-manager", None),
                ("scheduler", "system:kube-scheduler", None),
                ("node", f"system:node:{NAME}", "system:nodes"),
                ("proxy", "system:kube-proxy", None),
                # It reads pods, namespaces, nodes and policies.
                ("router", "kube-router", "system:masters"),
            )
        }
        self._start("kube-controller-manager", BIN / "kube-controller-manager",
                    f"--kubeconfig={kubeconfigs['manager']}", "--use-service-account-credentials",
                    f"--service-account-private-key-file={authority.tokens_key}",
                    f"--root-ca-file={authority.certificate}", "--allocate-node-cidrs", f"--cluster-cidr={POD_RANGE}",
                    f"--service-cluster-ip-range={SERVICE_RANGE}", "--leader-elect=false", "--secure-port=0",
                    # A node that says nothing for as long as a kubelet's restart takes stays.
                    "--node-monitor-grace-period=50s")  # fmt: skip
        self._start("kube-scheduler", BIN / "kube-scheduler", f"--kubeconfig={kubeconfigs['scheduler']}",
                    "--leader-elect=false", "--secure-port=0")  # fmt: skip
        self._start_kubelet(authority, kubeconfigs["node"])
        self._start_proxy(kubeconfigs["proxy"])
        waited("the node", self._ready, START_S)
        # It reads its node's podCIDR once.
        waited("podCIDR", lambda: self.kubectl("get", "node", NAME, "-o", "jsonpath={.spec.podCIDR}") or None, START_S)
        self._start("kube-router", BIN / "kube-router", f"--kubeconfig={kubeconfigs['router']}",
                    f"--hostname-override={NAME}", "--run-firewall=true", "--run-router=false",
                    "--run-service-proxy=false", f"--service-cluster-ip-range={SERVICE_RANGE}", "--metrics-port=0",
                    "--health-port=0", "--enable-cni=false", "--iptables-sync-period=30s")  # fmt: skip

    def _start_etcd(self) -> str:
        clients, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._start("etcd", "etcd", "--name=one", f"--data-dir={STATE / 'etcd'}", f"--listen-client-urls={clients}",
                    f"--advertise-client-urls={clients}", f"--listen-peer-urls={peers}",
                    f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=one={peers}",
                    # A run's state is worth no wait for a disk that others use too.
                    "--unsafe-no-fsync", "--election-timeout=5000", "--heartbeat-interval=500")  # fmt: skip
        return clients

    def _start_api_server(self, authority: Authority, etcd: str) -> None:
        names = f"IP:{NODE_ADDRESS},IP:{API_SERVICE},DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
        certificate, key = authority.sign("apiserver", "kube-apiserver", group="system:masters", names=names)
        self._start("kube-apiserver", BIN / "kube-apiserver", f"--etcd-servers={etcd}",
                    f"--bind-address={NODE_ADDRESS}", f"--advertise-address={NODE_ADDRESS}", "--secure-port=6443",
                    f"--service-cluster-ip-range={SERVICE_RANGE}", "--authorization-mode=Node,RBAC",
                    "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
                    f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}",
                    f"--client-ca-file={authority.certificate}", f"--kubelet-client-certificate={certificate}",
                    f"--kubelet-client-key={key}", f"--kubelet-certificate-authority={authority.certificate}",
                    "--kubelet-preferred-address-types=InternalIP",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    f"--service-account-key-file={authority.tokens_public}",
                    f"--service-account-signing-key-file={authority.tokens_key}")  # fmt: skip
        waited("the API server", lambda: "ok" in self.kubectl("get", "--raw", "/readyz") or None, START_S)

    def _start_kubelet(self, authority: Authority, kubeconfig: Path) -> None:
        certificate, key = authority.sign("kubelet", NAME, names=f"IP:{NODE_ADDRESS}")
        config = STATE / "kubelet.json"
        config.write_text(
            json.dumps(
                {
                    "kind": "KubeletConfiguration",
                    "apiVersion": "kubelet.config.k8s.io/v1beta1",
                    "address": NODE_ADDRESS,
                    "healthzPort": 0,
                    "tlsCertFile": str(certificate),
                    "tlsPrivateKeyFile": str(key),
                    "authentication": {
                        "anonymous": {"enabled": False},
                        "webhook": {"enabled": True},
                        "x509": {"clientCAFile": str(authority.certificate)},
                    },
                    "authorization": {"mode": "Webhook"},
                    "cgroupDriver": "cgroupfs",
                    "failCgroupV1": False,
                    "failSwapOn": False,
                    "clusterDNS": [DNS_ADDRESS],
                    "clusterDomain": "cluster.local",
                    "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
                    "podLogsDir": str(STATE / "pods"),
                    "volumePluginDir": str(STATE / "plugins"),
                    "imageGCHighThresholdPercent": 100,
                    "imageGCLowThresholdPercent": 99,
                    "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
                    "maxPods": 60,
                }
            ),
            "utf-8",
        )
        self._start("kubelet", BIN / "kubelet", f"--config={config}", f"--kubeconfig={kubeconfig}",
                    f"--hostname-override={NAME}", f"--node-ip={NODE_ADDRESS}", f"--root-dir={RUN / 'kubelet'}",
                    f"--cert-dir={STATE / 'certificates'}")  # fmt: skip

    def _start_proxy(self, kubeconfig: Path) -> None:
        config = STATE / "proxy.json"
        config.write_text(
            json.dumps(
                {
                    "kind": "KubeProxyConfiguration",
                    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                    "clientConnection": {"kubeconfig": str(kubeconfig)},
                    "hostnameOverride": NAME,
                    "mode": "iptables",
                    "clusterCIDR": POD_RANGE,
                    "conntrack": {"maxPerCore": 0, "min": 0},
                    "healthzBindAddress": f"{NODE_ADDRESS}:10256",
                    "metricsBindAddress": f"{NODE_ADDRESS}:10249",
                }
            ),
            "utf-8",
        )
        self._start("kube-proxy", BIN / "kube-proxy", f"--config={config}")

    # --- asking it ----------------------------------------------------------------------------------------------

    def kubectl(self, *words: str | Path, timeout_s: float = 60.0, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl prints, as the administrator."""
        return run("kubectl", f"--kubeconfig={self.admin}", *words, timeout_s=timeout_s, stdin=stdin, check=check)

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def _ready(self) -> bool:
        conditions = self.get("node", NAME)["status"]["conditions"]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    # --- processes ----------------------------------------------------------------------------------------------

    def _start(self, name: str, program: str | Path, *words: str | Path) -> None:
        self._commands[name] = [str(program), *map(str, words)]
        # Debian has the runtime's programs where a user's path may not lead.
        path = f"/usr/sbin:/sbin:{os.environ.get('PATH', '')}"
        with (self.logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._commands[name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path},
                start_new_session=True,
            )

    def restart(self, name: str) -> None:
        """Stop one of the processes and start it again, with the same words."""
        self._end(name)
        program, *words = self._commands[name]
        self._start(name, program, *words)

    def alive(self) -> None:
        """Fails, with the end of its log, if one of the processes has ended.

        Raises:
            CommandError: which one.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = (self.logs / f"{name}.log").read_text("utf-8", "replace")
                raise CommandError(f"{name} ended with {process.returncode}: {end_of(log)}")

    def stop(self) -> None:
        """End every process, those that others need last."""
        for name in reversed(list(self._processes)):
            if name != "containerd":
                self._end(name)
        if "containerd" in self._processes:
            self._end("containerd")

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
