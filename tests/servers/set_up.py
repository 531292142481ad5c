"""Brings what tests on real servers need: Debian's packages, Kafka's jars, vLLM's environment.

`make integration`, `make faults` and `make bench` run `python -m tests.servers.set_up` first. Debian's packages are
installed on a Debian machine by root alone; the rest is kept in .cache. Invariants: what is there is left alone, so
that a second run needs no network; what cannot be had is named in one line with what is skipped for it, and is an error
only with CI=true.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers import browser, crds

ROOT = Path(__file__).resolve().parents[2]
QUIET_S = 2.0
"""What ends sooner is not worth a line."""
REPORT_S = 20.0
"""How often something that takes long says that it goes on."""
APT = ("-o", "Acquire::Retries=3")
"""A mirror may fail once."""


@dataclass(frozen=True, slots=True)
class Need:
    """A program of this machine, Debian packages of which any has it, and the tests that are skipped without it."""

    name: str
    packages: tuple[str, ...]
    skipped: str
    present: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Files in .cache: the module that fetches them unless they are there, and the needs that it has."""

    name: str
    module: str
    option: str
    skipped: str
    timeout_s: float
    needs: tuple[str, ...] = ()


def has_postgresql() -> bool:
    return any(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or shutil.which("initdb") is not None


def has_java() -> bool:
    """Whether `java` is 17 or newer; some systems have a `java` that only says where to get one."""
    if shutil.which("java") is None:
        return False
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', said.stderr + said.stdout)
    return said.returncode == 0 and version is not None and int(version.group(1)) >= 17


def has_maven_or_jars() -> bool:
    return shutil.which("mvn") is not None or any((ROOT / ".cache" / "kafka").glob("*/lib/kafka_*.jar"))


def has_haproxy() -> bool:
    return shutil.which("haproxy", path=f"/usr/sbin:/usr/local/sbin:{os.environ.get('PATH', '')}") is not None


def has_kubectl() -> bool:
    return shutil.which("kubectl") is not None


def has_go_or_definitions() -> bool:
    return crds.go() is not None or all(map(crds.is_kept, crds.MODULES))


def has_chromium() -> bool:
    return browser.chromium() is not None


def has_promtool() -> bool:
    return shutil.which("promtool") is not None


NEEDS = (
    Need("PostgreSQL", ("postgresql",), "tests on PostgreSQL", has_postgresql),
    # Which Java a release has: 17, only newer ones, or an older one by default.
    Need("Java 17", ("openjdk-17-jre-headless", "default-jre-headless"), "tests on Kafka", has_java),
    Need("Maven", ("maven",), "tests on Kafka", has_maven_or_jars),
    # Debian's own kubernetes-client has a kustomize from before components.
    Need("kubectl", ("kubectl",), "tests of k8s", has_kubectl),
    Need("HAProxy", ("haproxy",), "tests of the guard before vLLM", has_haproxy),
    Need("Go", ("golang-go",), "the check of custom resources in k8s", has_go_or_definitions),
    Need("promtool", ("prometheus",), "the check of deploy/prometheus", has_promtool),
    Need("Chromium", ("chromium",), "tests of the console in a browser", has_chromium),
)

FETCHES = (
    Fetch("Kafka's jars (43 MB)", "tests.servers.kafka", "--fetch", "tests on Kafka", 600, ("Java 17", "Maven")),
    Fetch("definitions of custom resources", "tests.servers.crds", "--fetch", "their checks", 300, ("Go",)),
    Fetch("vLLM's CPU build (a few GB)", "tests.servers.vllm", "--install", "tests on vLLM", 2_400),
)


def main() -> int:
    """Bring everything; returns the exit code."""
    missing = [need for need in NEEDS if not need.present()]
    if missing and may_install():
        install(missing)
        missing = [need for need in missing if not need.present()]
    lines = [missing_line(missing, debian=is_debian())] if missing else []
    absent = {need.name for need in missing}
    for fetch in FETCHES:
        if absent.isdisjoint(fetch.needs):
            problem = run([sys.executable, "-m", fetch.module, fetch.option], fetch.name, fetch.timeout_s)
            if problem is not None:
                lines.append(f"{fetch.name} cannot be had, so {fetch.skipped} are skipped: {problem}")
    for line in lines:
        say(line)
    if lines and os.environ.get("CI") == "true":
        say("in CI nothing may be missing")
        return 1
    return 0


def is_debian() -> bool:
    return Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None


def may_install() -> bool:
    """Packages are installed by root on Debian alone; nobody is asked for a password."""
    return is_debian() and os.geteuid() == 0


def missing_line(missing: Sequence[Need], *, debian: bool) -> str:
    """One line: what is missing, what is skipped for it, and how to have it."""
    skipped = " and ".join(dict.fromkeys(need.skipped for need in missing))
    packages = " ".join(need.packages[0] for need in missing)
    remedy = f"as root: apt-get install {packages}" if debian else "install it with your system's package manager"
    return f"missing: {', '.join(need.name for need in missing)}; skipped for it: {skipped} ({remedy})"


def install(needs: Sequence[Need]) -> None:
    """Install the first package of each need that the machine's lists have; they are renewed once when they lack it.

    No package is removed for it: what only goes in place of another (runc in place of Docker's containerd.io, say) is
    refused, and said.
    """
    if not all(_install_one(need) is None for need in needs):
        run(["apt-get", *APT, "update"], "Debian's package lists", 300)
        for need in needs:
            if not need.present() and (problem := _install_one(need)) is not None:
                say(f"apt-get could not install {' or '.join(need.packages)}: {problem}")


def _install_one(need: Need) -> str | None:
    """None: it is installed; else what apt-get said of each package."""
    options = ["--yes", "--no-remove", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
    problems = []
    for package in need.packages:
        problem = run(["apt-get", *APT, "install", *options, package], f"Debian's package {package}", 900)
        if problem is None:
            return None
        if "remove is disabled" in problem:
            problem += f" (`apt-get install --simulate {package}` names them)"
        problems.append(problem)
    return "; ".join(problems)


def run(command: Sequence[str], name: str, timeout_s: float) -> str | None:
    """Run a command whose output matters only when it fails, saying that it goes on; returns what it said last, or None
    when it succeeded.
    """
    # RUNLEVEL: where there is no systemd, a package that is being installed starts no service of its own.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        # A session of its own: what is given up is ended with its children.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            patience_s = QUIET_S
            while (spent_s := time.monotonic() - begun) < timeout_s:
                try:
                    process.wait(min(patience_s, timeout_s - spent_s))
                    break
                except subprocess.TimeoutExpired:
                    say(f"{name} ... {time.monotonic() - begun:.0f} s")
                    patience_s = REPORT_S
            else:
                return f"gave up after {timeout_s:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode == 0:
            return None
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
        return lines[-1] if lines else f"exit code {process.returncode}"


def say(text: str) -> None:
    print(f"servers: {text}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
