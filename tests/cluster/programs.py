"""Builds what no package of Debian has: Kubernetes' own programs, CoreDNS, kube-router. Kept in .cache/cluster/bin.

`python -m tests.cluster.programs` builds what is missing: 15 minutes on two cores that are free, once. Their versions
and the hashes of every module are in go/*/go.mod and go.sum.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from tests.cluster import BIN, HERE
from tests.cluster.commands import CommandError, run
from tests.servers import crds

CNI_PLUGIN = "/usr/lib/cni/bridge"
PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "etcd": "etcd-server",
    "ip": "iproute2",
    CNI_PLUGIN: "containernetworking-plugins",
    **{name: name for name in ("buildah", "debootstrap", "ipset", "conntrack", "iptables", "openssl", "kubectl")},
}
"""What the cluster needs of Debian: a program, the package that brings it."""
VERSION = "v1.34.4"
BUILD_S = 5_400.0
_SAID = "k8s.io/component-base/version"
SOURCES = {
    **{
        name: ("kubernetes", f"k8s.io/kubernetes/cmd/{name}")
        for name in ("kube-apiserver", "kube-controller-manager", "kubelet", "kube-scheduler", "kube-proxy")
    },
    "coredns": ("coredns", "github.com/coredns/coredns"),
    "kube-router": ("kube-router", "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"),
}
"""(folder of its go.mod, package) by program."""
NAMES = tuple(SOURCES)


def packages(missing: Iterable[str]) -> list[str]:
    """Debian's packages that bring these programs, each once."""
    return list(dict.fromkeys(PACKAGES[program] for program in missing))


def build() -> None:
    """Build what is missing.

    Raises:
        SystemExit: Go is missing, or a build failed.
    """
    BIN.mkdir(parents=True, exist_ok=True)
    for name, (folder, package) in SOURCES.items():
        if (BIN / name).exists():
            continue
        program = crds.go()
        if program is None:
            raise SystemExit("Go is missing (Debian: apt-get install golang-go)")
        begun = time.monotonic()
        print(f"cluster: building {name}", flush=True)
        flags = (
            f"-s -w -X {_SAID}.gitVersion={VERSION} -X {_SAID}.gitMajor=1 -X {_SAID}.gitMinor={VERSION.split('.')[1]}"
        )
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-trimpath -buildvcs=false"}
        unfinished = BIN / f".{name}.{os.getpid()}"
        try:
            run(program, "build", "-ldflags", flags, "-o", unfinished, package, folder=HERE / "go" / folder,
                environment=environment, timeout_s=BUILD_S)  # fmt: skip
        except CommandError as error:
            raise SystemExit(f"cluster: {name} cannot be built: {error}") from error
        unfinished.rename(BIN / name)
        print(f"cluster: built {name} in {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    build()
