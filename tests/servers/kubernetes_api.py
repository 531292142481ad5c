"""Kubernetes' own API server and controllers on loopback ports, with etcd; no node: tests write what a kubelet would.

The programs are those of `make cluster-test`, which builds them once (.cache/cluster/bin). Where they are missing the
tests are skipped, in CI too: building them takes a quarter of an hour.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.servers import free_port

Manifest = dict[str, Any]

BIN = Path(__file__).parents[2] / ".cache" / "cluster" / "bin"
TOKEN = "admin-of-the-tests"
START_S = 240.0
"""On a machine with ten times as much to do as it has cores."""
CONTROLLERS = (
    *("job-controller", "garbage-collector-controller", "namespace-controller", "serviceaccount-controller"),
    *("root-ca-certificate-publisher-controller", "ttl-after-finished-controller"),
)


def programs() -> dict[str, str]:
    """Where each program is; skips the test when one is missing."""
    found = {name: str(BIN / name) for name in ("kube-apiserver", "kube-controller-manager")}
    missing = [name for name, path in found.items() if not Path(path).exists()]
    for name in ("etcd", "openssl"):
        found[name] = shutil.which(name) or ""
        missing += [] if found[name] else [name]
    if missing:
        pytest.skip(f"{', '.join(missing)} missing; `make cluster-test` brings them")
    return found


class KubernetesApi:
    """One control plane. `ask` speaks as its administrator."""

    def __init__(self) -> None:
        self._programs = programs()
        self._directory = Path(tempfile.mkdtemp(prefix="semievol-k8s-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._port = free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self._client: httpx.Client | None = None

    def start(self) -> None:
        key, public = self._directory / "tokens.key", self._directory / "tokens.pub"
        openssl = self._programs["openssl"]
        for command in (
            ("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(key)),
            ("pkey", "-in", str(key), "-pubout", "-out", str(public)),
        ):
            subprocess.run([openssl, *command], check=True, capture_output=True, timeout=60)
        (self._directory / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n', "utf-8")
        etcd, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._run(
            "etcd",
            *("--name=one", f"--data-dir={self._directory / 'etcd'}", f"--listen-client-urls={etcd}"),
            *(f"--advertise-client-urls={etcd}", f"--listen-peer-urls={peers}"),
            *(f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=one={peers}"),
            *("--unsafe-no-fsync", "--election-timeout=10000", "--heartbeat-interval=1000"),
        )
        self._run(
            "kube-apiserver",
            *(f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"),
            *(f"--secure-port={self._port}", f"--cert-dir={self._directory / 'certificates'}"),
            *("--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC"),
            f"--token-auth-file={self._directory / 'tokens.csv'}",
            *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={public}"),
            f"--service-account-signing-key-file={key}",
        )
        self._until(self._answers, "the API server")
        self.kubeconfig(TOKEN, self.admin)
        self._run(
            "kube-controller-manager",
            *(f"--kubeconfig={self.admin}", "--leader-elect=false", "--secure-port=0"),
            f"--controllers={','.join(CONTROLLERS)}",
            f"--service-account-private-key-file={key}",
            # What a controller has seen is a while behind what was written, unless it looks often.
            "--concurrent-gc-syncs=2",
        )

    @property
    def admin(self) -> Path:
        return self._directory / "admin.kubeconfig"

    @property
    def _authority(self) -> Path:
        return self._directory / "certificates" / "apiserver.crt"

    def kubeconfig(self, token: str, file: Path, namespace: str = "default") -> Path:
        """Write one for whoever has the token; JSON is YAML."""
        cluster = {"server": self.url, "certificate-authority": str(self._authority)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        }
        file.write_text(json.dumps(content), "utf-8")
        return file

    def ask(self, method: str, path: str, body: Any = None, *, patch: str = "merge-patch") -> Manifest:
        """One call; what the API server refuses is an AssertionError with what it says."""
        assert self._client is not None
        kind = f"application/{patch}+json" if method == "PATCH" else "application/json"
        answer = self._client.request(
            method, path, content=None if body is None else json.dumps(body), headers={"Content-Type": kind}
        )
        assert answer.status_code < 400, f"{method} {path}: {answer.text}"
        return dict(answer.json())

    def apply(self, namespace: str, file: Path) -> None:
        """Create a file's ServiceAccounts, Roles and RoleBindings."""
        places = {"ServiceAccount": "api/v1", "Role": "apis/rbac.authorization.k8s.io/v1"}
        places["RoleBinding"] = places["Role"]
        for each in yaml.safe_load_all(file.read_text("utf-8")):
            for subject in each.get("subjects", ()):
                subject["namespace"] = namespace  # as kustomize sets it
            self.ask("POST", f"/{places[each['kind']]}/namespaces/{namespace}/{each['kind'].lower()}s", each)

    def token_of(self, namespace: str, account: str) -> str:
        """Of a ServiceAccount, as its pods get one."""
        asked: Mapping[str, Any] = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        answer = self.ask("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", asked)
        return str(answer["status"]["token"])

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self, name: str, *arguments: str) -> None:
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen([self._programs[name], *arguments], stdout=log, stderr=subprocess.STDOUT)
            )

    def _answers(self) -> bool:
        if self._client is None:
            if not self._authority.exists():
                return False
            import ssl

            trust = ssl.create_default_context(cafile=str(self._authority))
            headers = {"Authorization": f"Bearer {TOKEN}"}
            self._client = httpx.Client(base_url=self.url, verify=trust, headers=headers, timeout=60)
        with suppress(httpx.HTTPError):
            return self._client.get("/readyz").status_code == 200
        return False

    def _until(self, condition: Any, what: str) -> None:
        give_up = time.monotonic() + START_S
        while not condition():
            ended = [process for process in self._processes if process.poll() is not None]
            if ended or time.monotonic() > give_up:
                logs = "\n".join(log.read_text("utf-8", "replace")[-1500:] for log in self._directory.glob("*.log"))
                raise AssertionError(f"{what} did not start:\n{logs}")
            time.sleep(0.2)
